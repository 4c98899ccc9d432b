"""Answers, whole and in pieces of any size, and what is made of bad ones."""

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agents.llm.answer import Answer
from services.agents.llm.events import DONE, EventLines
from services.agents.llm.kinds import RULES, CallError, ErrorKind
from services.agents.llm.reply import Tokens
from services.agents.llm.telling import CallerError, Telling
from services.agents.llm.verdict import judge
from tests.mock_openai import Call, Fault, Script, answers

LIMIT = 1 << 20
ASKED = {"model": "m", "stream_options": {"include_usage": True}}


def kind_of(action: Any, *arguments: Any) -> ErrorKind:
    with pytest.raises(CallError) as caught:
        action(*arguments)
    return caught.value.kind


def streamed(script: Script, cuts: list[int], told: Any = None) -> Answer:
    """An answer read from a stream that arrives in pieces cut at `cuts`."""
    data = b"".join(answers.events(script, ASKED, 100))
    answer, lines = Answer(LIMIT, told), EventLines(LIMIT)
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in pairwise(places):
        for event in lines.feed(data[start:end]):
            if event != DONE:
                answer.add(event)
    return answer


def whole(script: Script) -> Answer:
    answer = Answer(LIMIT)
    answer.whole(answers.whole(script, ASKED, 100))
    return answer


scripts = st.builds(
    Script,
    text=st.text(max_size=60),
    calls=st.lists(
        st.builds(
            Call, name=st.sampled_from("abc"), arguments=st.text(max_size=30), id=st.sampled_from(["x", "y"])
        ),
        max_size=3,
    ).map(tuple),
    piece_chars=st.integers(1, 20),
)


@given(script=scripts, cuts=st.lists(st.integers(0, 3000), max_size=8))
def test_a_stream_cut_anywhere_gives_what_the_whole_answer_gives(script: Script, cuts: list[int]):
    told: list[str] = []
    piecewise, at_once = streamed(script, cuts, told.append), whole(script)
    for name in ("text", "tool_uses", "finish_reason", "refusal", "tokens"):
        assert getattr(piecewise, name) == getattr(at_once, name)
    assert "".join(told) == piecewise.text


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_no_bytes_can_break_the_reading_of_events(pieces: list[bytes]):
    lines = EventLines(64)
    with suppress(CallError):
        for piece in pieces:
            for event in lines.feed(piece):
                Answer(LIMIT).add(event)


def test_events_may_have_comments_other_fields_and_several_lines_of_data():
    lines = EventLines(LIMIT)
    data = b': keep-alive\r\n\r\nevent: x\ndata: {"a":\ndata:1}\nid: 3\n\ndata:[DONE]\n\n'
    assert list(lines.feed(data)) == [b'{"a":\n1}', DONE]


def test_an_event_without_end_is_given_up():
    lines = EventLines(100)
    assert kind_of(lambda: [list(lines.feed(b"data: " + b"x" * 30)) for _ in range(5)]) is ErrorKind.OVERSIZED


# What answers are made of.
_NAMES = [
    *("choices", "message", "delta", "tool_calls", "function", "content", "index", "usage", "error", "name"),
    *("arguments", "code", "finish_reason", "prompt_tokens"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(json_values)
def test_any_json_is_an_answer_or_a_typed_error(value: Any):
    for take in ("whole", "add"):
        answer = Answer(LIMIT)
        with suppress(CallError):
            getattr(answer, take)(json.dumps(value).encode())
            judge(answer, None, True)


def body(message: Any, finish: str = "stop", **others: Any) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], **others}).encode()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", ErrorKind.MALFORMED),
        (b"<html>", ErrorKind.MALFORMED),
        (b"[]", ErrorKind.MALFORMED),
        (b'{"choices": []}', ErrorKind.MALFORMED),
        (b'{"choices": [{}]}', ErrorKind.MALFORMED),
        (body({"content": None}), ErrorKind.MALFORMED),
        (body({"content": ""}), ErrorKind.MALFORMED),
        (body({"content": " \n\t\0 "}), ErrorKind.MALFORMED),
        (body({"tool_calls": [{"function": {"arguments": "{}"}}]}), ErrorKind.MALFORMED),
        (body({"tool_calls": ["x"]}), ErrorKind.MALFORMED),
        (body({"tool_calls": [{"index": -1, "function": {}}]}), ErrorKind.MALFORMED),
        (body({"content": ""}, "length"), ErrorKind.TRUNCATED),
        (
            body({"tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}, "length"),
            ErrorKind.TRUNCATED,
        ),
        (body({"content": "a"}, "content_filter"), ErrorKind.CONTENT_FILTER),
        (body({"content": None, "refusal": "no"}), ErrorKind.REFUSAL),
        (b'{"error": {"code": "rate_limit_exceeded"}}', ErrorKind.RATE_LIMITED),
        (b'{"error": {"code": 429}}', ErrorKind.RATE_LIMITED),
        (b'{"error": {"code": "context_length_exceeded"}}', ErrorKind.CONTEXT_TOO_LONG),
        (b'{"error": {"type": "content_filter"}}', ErrorKind.CONTENT_FILTER),
        (b'{"error": "it broke"}', ErrorKind.SERVER_ERROR),
    ],
)
def test_a_bad_answer_has_its_kind(data: bytes, kind: ErrorKind):
    def read() -> None:
        answer = Answer(LIMIT)
        answer.whole(data)
        judge(answer, None, True)

    assert kind_of(read) is kind


def test_text_that_was_cut_short_is_still_a_text():
    answer = Answer(LIMIT)
    answer.whole(body({"content": "It is on"}, "length"))
    usable = judge(answer, None, False)
    assert (usable.text, usable.finish_reason) == ("It is on", "length")


def test_other_servers_forms_are_understood():
    answer = Answer(LIMIT)
    answer.whole(
        body(
            {
                "content": [{"type": "text", "text": "It "}, {"type": "text", "text": "is."}],
                "tool_calls": [{"function": {"name": "a", "arguments": {"b": 1}}, "other": 1}],
                "reasoning_content": "hm",
            },
            system_fingerprint=None,
        )
    )
    assert answer.text == "It is."
    assert [(use.id, use.name, use.arguments) for use in answer.tool_uses] == [("call_0", "a", '{"b": 1}')]


@given(st.text(st.characters(codec=None), max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_whatever_is_said_can_be_told_and_kept_and_a_stream_gives_what_the_whole_gives(
    text: str, cuts: list[int]
):
    told: list[str] = []
    piecewise, at_once = Answer(LIMIT, told.append), Answer(LIMIT)
    for start, end in pairwise(sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})):
        piecewise.add(json.dumps({"choices": [{"delta": {"content": text[start:end]}}]}).encode())
    piecewise.add(b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}')
    at_once.whole(body({"content": text}))
    assert piecewise.text == at_once.text == "".join(told)
    at_once.text.encode()
    assert not any(char < " " and char not in "\n\t" for char in at_once.text)


def test_halves_of_a_character_become_one_and_what_is_left_of_one_is_marked():
    answer = Answer(LIMIT)
    for piece in ("Good \ud83d", "\ude00 and \ud83d ", "\ude00.\r\n"):
        answer.add(json.dumps({"choices": [{"delta": {"content": piece}}]}).encode())
    assert answer.text == "Good \U0001f600 and \ufffd \ufffd.\n"


def test_names_and_arguments_of_tools_are_cleaned_like_texts():
    call = {"id": "\ud800", "function": {"name": "get\0_order\udc00", "arguments": '{"a":\x07 "\ud800"}'}}
    answer = Answer(LIMIT)
    answer.whole(body({"tool_calls": [call]}))
    [use] = answer.tool_uses
    assert (use.id, use.name, use.arguments) == ("\ufffd", "get_order\ufffd", '{"a": "\ufffd"}')


def test_more_than_the_limit_is_not_kept():
    answer = Answer(10)
    event = b'{"choices": [{"delta": {"content": "123456"}}]}'
    answer.add(event)
    assert kind_of(answer.add, event) is ErrorKind.OVERSIZED
    assert answer.text == "123456"


def test_what_it_took_is_as_the_server_says_or_is_estimated():
    assert whole(Script(usage=(7, 3))).estimate(400, 2000) == Tokens(7, 3)
    assert whole(Script(usage=(10**18, 3))).tokens is None  # no figure to reckon with
    unsaid = whole(Script(text="x" * 40, fault=Fault.NO_USAGE))
    assert unsaid.estimate(400, 2000) == Tokens(100, 10, estimated=True)
    assert unsaid.estimate(400, 5) == Tokens(100, 5, estimated=True)


def test_every_kind_of_error_has_its_rule():
    assert set(RULES) == set(ErrorKind)
    assert all(1 <= rule.tries <= 3 for rule in RULES.values())


def test_pieces_of_one_response_are_told_and_its_failure_once():
    told: list[str] = []
    telling = Telling(told.append, lambda: told.append("restart"))
    telling.failed()  # nothing was told yet
    telling.piece("a")
    telling.piece("")
    telling.piece("b")
    telling.failed()
    telling.failed()
    assert not telling.wanted
    telling.piece("c")
    assert told == ["a", "b", "restart"]


def test_what_a_caller_raises_is_the_callers():
    def raises(_: str) -> None:
        raise KeyError("mine")

    with pytest.raises(CallerError) as caught:
        Telling(raises, None).piece("a")
    assert isinstance(caught.value.error, KeyError)
