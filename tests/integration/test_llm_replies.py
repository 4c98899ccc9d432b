"""What is sent to a server, what is kept of its answers, and what comes out."""

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from services.agents.llm import (
    LanguageModels,
    ModelFailure,
    ModelReply,
    ModelRequest,
    ModelsConfig,
    ModelSettings,
    Tokens,
)
from tests.integration.llm_rig import FIRST, KEY, QUESTION, RIGHT, SCHEMA, SECOND, TOOL, Book, models, request
from tests.mock_openai import Call, Fault, MockOpenAI, Script

SCOPE = "acme/eta/3"


def plain(reply: ModelReply) -> ModelReply:
    """Without what differs from call to call."""
    return replace(reply, latency_ms=0.0, tokens=Tokens(), cost_nano_usd=0)


async def test_a_request_says_what_was_asked(mock_openai: MockOpenAI):
    mock_openai.always(Script(text=RIGHT))
    async with models(mock_openai) as asked:
        await asked.complete(request(schema=SCHEMA, tools=(TOOL,), temperature=0.7, max_output_tokens=99))
    [seen] = mock_openai.requests
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body == {
        "model": FIRST,
        "messages": list(QUESTION),
        "temperature": 0.7,
        "max_tokens": 99,
        "tools": [TOOL],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
        },
    }


async def test_a_model_that_thinks_first_is_sent_no_temperature(mock_openai: MockOpenAI):
    async with models(mock_openai) as asked:
        for model in ("gpt-5-mini", "o3", "gpt-4o", "gpt-5-chat-latest", "omni"):
            await asked.complete(request(model=model))
    sent = {seen.model: "temperature" in seen.body for seen in mock_openai.requests}
    assert sent == {
        "gpt-5-mini": False,
        "o3": False,
        "gpt-4o": True,
        "gpt-5-chat-latest": True,
        "omni": True,
    }


def test_openai_itself_is_told_the_limit_by_its_newer_name():
    assert ModelsConfig().limit_field == "max_completion_tokens"
    assert ModelsConfig(base_url="http://127.0.0.1:8000/v1").limit_field == "max_tokens"


@pytest.mark.parametrize(
    "script",
    [
        Script(text="Es kommt um 12:30 – später nicht. 🚲" * 20, piece_chars=7),
        Script(text="", calls=(Call("get_order", '{"id": "17"}', "a"), Call("weather", "{}", "b"))),
        Script(text="I look.", calls=(Call("get_order", '{"id": "17"}', "a"),)),
        Script(text="cut", finish_reason="length"),
    ],
)
async def test_a_stream_and_a_whole_answer_give_equal_replies(mock_openai: MockOpenAI, script: Script):
    mock_openai.always(script)
    told: list[str] = []
    async with models(mock_openai) as asked:
        whole = await asked.complete(request(tools=(TOOL,)))
        streamed = await asked.complete(request(tools=(TOOL,)), on_text=told.append)
    assert plain(whole) == plain(streamed)
    assert "".join(told) == script.text
    assert [(use.name, use.arguments, use.id) for use in whole.tool_uses] == [
        (call.name, call.arguments, call.id) for call in script.calls
    ]


async def test_connections_are_used_again_after_whole_and_streamed_answers(mock_openai: MockOpenAI):
    async with models(mock_openai) as asked:
        for _ in range(10):
            await asked.complete(request())
            await asked.complete(request(), on_text=lambda _: None)
            assert mock_openai.open_connections == 1


async def test_a_server_that_does_not_stream_is_understood_all_the_same(mock_openai: MockOpenAI):
    """It answers as it can: with JSON, or an error of status 200."""
    mock_openai.answer_with(lambda body: (body.pop("stream", None) and Script(text="whole")) or Script())
    told: list[str] = []
    async with models(mock_openai) as asked:
        reply = await asked.complete(request(), on_text=told.append)
    assert (reply.text, told) == ("whole", ["whole"])


async def test_what_was_spent_is_all_that_was_spent(mock_openai: MockOpenAI):
    mock_openai.queue(FIRST, Script(text="no", usage=(100, 10)), Script(text=RIGHT, usage=(200, 20)))
    book = Book()
    async with models(mock_openai) as asked:
        reply = await asked.complete(request(schema=SCHEMA), ledger=book)
    assert reply.tokens == Tokens(300, 30)
    assert reply.cost_nano_usd == 300 * 2000 + 30 * 8000
    assert [attempt.cost_nano_usd for attempt in reply.failed] == [100 * 2000 + 10 * 8000]
    assert [settled[1:] for settled in book.settled] == [(280_000, 110), (560_000, 220)]


async def test_the_very_same_question_is_answered_from_the_cache(mock_openai: MockOpenAI):
    mock_openai.always(Script(text=RIGHT))
    book, told = Book(), []
    async with models(mock_openai) as asked:
        same = request(schema=SCHEMA, cache_scope=SCOPE)
        first = await kept(asked, same, ledger=book)
        first.parsed["minutes"] = -1  # what a caller does with its answer is seen by nobody else
        again = await asked.complete(
            request(schema=SCHEMA, cache_scope=SCOPE), ledger=book, on_text=told.append
        )
    assert (again.cached, again.tokens, again.cost_nano_usd) == (True, Tokens(), 0)
    assert again.parsed == {"order_id": "17", "minutes": 12.5}
    assert told == [RIGHT]
    assert mock_openai.total == book.reserved == 1


async def kept(asked: LanguageModels, what: ModelRequest, **options: Any) -> Any:
    """A reply that its caller has found right."""
    reply = await asked.complete(what, **options)
    asked.keep([reply])
    return reply


CHANGES: list[dict[str, Any]] = [
    {"cache_scope": "other/eta/3"},
    {"cache_scope": "acme/eta/4"},
    {"model": SECOND},
    {"temperature": 0.31},
    {"max_output_tokens": 2001},
    {"schema": {**SCHEMA, "description": "other"}},
    {"schema": None},
    {"schema_name": "other"},
    {"tools": (TOOL,)},
    {"messages": ({"role": "user", "content": "Where is order 18?"},)},
    {"messages": ({"role": "system", "content": QUESTION[0]["content"]},)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
async def test_a_question_that_differs_in_any_part_is_asked(mock_openai: MockOpenAI, change: dict[str, Any]):
    mock_openai.always(Script(text=RIGHT))
    same = request(schema=SCHEMA, cache_scope=SCOPE)
    settings = {name: value for name, value in change.items() if name in ModelSettings.__slots__}
    parts = {name: value for name, value in change.items() if name not in settings}
    other = replace(same, settings=replace(same.settings, **settings), **parts)
    async with models(mock_openai) as asked:
        await kept(asked, same)
        assert not (await kept(asked, other)).cached
        assert (await asked.complete(same)).cached
        assert (await asked.complete(other)).cached


async def test_a_reply_is_kept_when_its_caller_says_so_and_not_before(mock_openai: MockOpenAI):
    mock_openai.queue(FIRST, Script(text="wrong"), Script(text="right"))
    same = request(cache_scope=SCOPE)
    async with models(mock_openai) as asked:
        wrong = await asked.complete(same)
        assert len(asked.cache) == 0
        right = await asked.complete(same)
        assert (wrong.text, right.text, right.cached) == ("wrong", "right", False)
        asked.keep([right])
        again = await asked.complete(same)
        assert (again.text, again.cached) == ("right", True)
        # What comes from there does not become younger by being used.
        assert again.cache_key is None


async def test_a_fresh_reply_does_not_come_from_the_cache_and_is_kept_there(mock_openai: MockOpenAI):
    mock_openai.queue(FIRST, Script(text="old"), Script(text="new"))
    same = request(cache_scope=SCOPE)
    async with models(mock_openai) as asked:
        await kept(asked, same)
        fresh = await kept(asked, replace(same, fresh=True))
        assert (fresh.text, fresh.cached) == ("new", False)
        again = await asked.complete(same)
        assert (again.text, again.cached) == ("new", True)
        assert len(asked.cache) == 1


async def test_the_models_after_one_are_those_that_come_after_it(mock_openai: MockOpenAI):
    async with models(mock_openai, fallback_models=("b", "c")) as asked:
        settings = ModelSettings(temperature=0.7)
        after = asked.after(FIRST, settings)
        assert after is not None
        assert (asked.models(after), after.temperature) == (("b", "c"), 0.7)
        last = asked.after("b", after)
        assert last is not None
        # Not the service's fallback models, which are meant where none is named.
        assert asked.models(last) == ("c",)
        assert asked.after("c", last) is None
        assert asked.after("c", settings) is None


async def test_nothing_is_kept_without_a_scope(mock_openai: MockOpenAI):
    async with models(mock_openai) as asked:
        assert not any([(await kept(asked, request())).cached for _ in range(2)])
        assert len(asked.cache) == 0


@pytest.mark.parametrize(
    "script", [Script(text="cut", finish_reason="length"), Script(text="no"), Script(fault=Fault.REFUSAL)]
)
async def test_only_complete_and_valid_answers_are_kept(mock_openai: MockOpenAI, script: Script):
    mock_openai.always(script)
    schema = None if script.finish_reason else SCHEMA
    async with models(mock_openai) as asked:
        await asyncio.gather(kept(asked, request(schema=schema, cache_scope=SCOPE)), return_exceptions=True)
        assert len(asked.cache) == 0


async def test_what_the_fallback_answered_is_kept_as_the_fallbacks(mock_openai: MockOpenAI):
    mock_openai.queue(FIRST, *[Script(fault=Fault.REFUSAL)] * 2)
    async with models(mock_openai) as asked:
        await kept(asked, request(cache_scope=SCOPE))
        again = await asked.complete(request(cache_scope=SCOPE))
        assert (again.model, again.cached, len(again.failed)) == (SECOND, True, 1)
        assert (await asked.complete(request(cache_scope=SCOPE))).model == FIRST
    assert len(mock_openai.asked(SECOND)) == 1


async def test_one_of_two_who_ask_the_same_may_go_without_harm_to_the_other(mock_openai: MockOpenAI):
    answering = asyncio.Event()
    mock_openai.always(Script(held=answering))
    async with models(mock_openai) as asked:
        one, other = (asyncio.create_task(asked.complete(request(cache_scope=SCOPE))) for _ in range(2))
        await mock_openai.until(lambda: mock_openai.under_way == 2)
        one.cancel()
        answering.set()
        assert (await other).text
        with pytest.raises(asyncio.CancelledError):
            await one


async def test_without_a_key_or_a_model_nothing_is_available():
    async def reason(config: ModelsConfig) -> str:
        asked = LanguageModels(config)
        assert not asked.available
        with pytest.raises(ModelFailure) as caught:
            await asked.complete(request())
        await asked.close()
        return caught.value.reason

    assert await reason(ModelsConfig(model="gpt-4o")) == "no model is configured"
    assert await reason(ModelsConfig(api_key=SecretStr(KEY))) == "no model is configured"


async def test_models_of_the_settings_go_before_those_of_the_service(mock_openai: MockOpenAI):
    async with models(mock_openai) as asked:
        assert asked.available
        assert asked.models(ModelSettings()) == (FIRST, SECOND)
        assert asked.models(ModelSettings(model="a")) == ("a", SECOND)
        assert asked.models(ModelSettings(model="a", fallback_models=("a", "b"))) == ("a", "b")


@pytest.mark.parametrize(
    "wrong", [{"schema": {"type": "nothing"}}, {"messages": ({"role": "user", "content": object()},)}]
)
async def test_a_request_that_cannot_be_sent_is_a_failure(mock_openai: MockOpenAI, wrong: dict[str, Any]):
    async with models(mock_openai) as asked:
        with pytest.raises(ModelFailure, match="cannot be sent"):
            await asked.complete(replace(request(), **wrong))


async def test_a_text_with_half_a_character_is_sent(mock_openai: MockOpenAI):
    async with models(mock_openai) as asked:
        await asked.complete(replace(request(), messages=({"role": "user", "content": "a\ud800b"},)))
    assert mock_openai.requests[0].body["messages"][0]["content"] == "a?b"


@pytest.mark.parametrize("streamed", [False, True])
async def test_neither_key_nor_question_nor_answer_is_in_a_log_or_an_error(
    mock_openai: MockOpenAI, caplog: pytest.LogCaptureFixture, streamed: bool
):
    caplog.set_level(logging.DEBUG)
    answer = "Apfelkuchen"
    mock_openai.queue(
        FIRST,
        *(Script(text=answer, fault=fault) for fault in (Fault.UNAVAILABLE, Fault.ERROR_CHUNK)),
        Script(text=answer, fault=Fault.UNAUTHORIZED),
    )
    mock_openai.always(Script(text=answer, fault=Fault.MALFORMED_BODY), SECOND)
    async with models(mock_openai) as asked:
        with pytest.raises(ModelFailure) as caught:
            await asked.complete(request(), on_text=(lambda _: None) if streamed else None)
    failure = caught.value
    said = caplog.text + str(failure) + json.dumps([attempt.message for attempt in failure.attempts])
    for secret in (KEY, QUESTION[0]["content"], answer):
        assert secret not in said
    assert {record.name.partition(".")[0] for record in caplog.records} <= {"services", "asyncio"}


async def test_an_answer_that_says_to_look_elsewhere_is_not_followed(mock_openai: MockOpenAI):
    """The key would go along."""
    elsewhere = MockOpenAI()
    await elsewhere.start()
    mock_openai.always(
        Script(fault=Fault.MOVED, headers={"location": f"{elsewhere.base_url}/chat/completions"})
    )
    async with models(mock_openai) as asked:
        with pytest.raises(ModelFailure):
            await asked.complete(request())
    assert elsewhere.total == 0
    await elsewhere.close()
