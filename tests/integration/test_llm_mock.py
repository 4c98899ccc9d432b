"""The mock speaks what the official client understands, and keeps count."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.integration.llm_rig import QUESTION, RIGHT, TOOL
from tests.mock_openai import Call, Fault, MockOpenAI, Script

GUARD_S = 30.0


@pytest.fixture
async def client(mock_openai: MockOpenAI) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client as anybody uses it, without retries."""
    http = openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(
        api_key="sk-x", base_url=mock_openai.base_url, max_retries=0, http_client=http
    ) as made:
        yield made


async def create(client: openai.AsyncOpenAI, model: str = "mock", **options: Any) -> Any:
    return await client.chat.completions.create(model=model, messages=list(QUESTION), **options)


async def test_an_answer_is_read_by_the_official_client(mock_openai: MockOpenAI, client: openai.AsyncOpenAI):
    mock_openai.always(Script(text="It is.", usage=(7, 3)))
    answer = await create(client)
    assert answer.choices[0].message.content == "It is."
    assert (answer.choices[0].finish_reason, answer.usage.total_tokens) == ("stop", 10)
    assert [model.id async for model in client.models.list()] == ["mock"]


async def test_a_stream_is_read_by_the_official_client(mock_openai: MockOpenAI, client: openai.AsyncOpenAI):
    mock_openai.always(Script(text=RIGHT, usage=(7, 3)))
    stream = await create(client, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == RIGHT
    assert chunks[-1].usage.total_tokens == 10


async def test_tool_calls_are_read_by_the_official_client(
    mock_openai: MockOpenAI, client: openai.AsyncOpenAI
):
    mock_openai.always(Script(text="", calls=(Call("get_order", '{"id": "17"}', "a"),)))
    [call] = (await create(client, tools=[TOOL])).choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("a", "get_order", '{"id": "17"}')


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.RATE_LIMITED, openai.RateLimitError),
        (Fault.SERVER_ERROR, openai.InternalServerError),
        (Fault.UNAVAILABLE, openai.InternalServerError),
        (Fault.UNAUTHORIZED, openai.AuthenticationError),
        (Fault.RESET_BEFORE, openai.APIConnectionError),
        (Fault.MALFORMED_BODY, json.JSONDecodeError),
    ],
)
async def test_a_fault_is_what_it_is_called(client: openai.AsyncOpenAI, fault: Fault, error: type[Exception]):
    with pytest.raises(error):
        await create(client, model=f"fault:{fault.value}")


async def test_scripts_come_from_a_function_a_header_a_queue_and_what_is_usual_in_this_order(
    mock_openai: MockOpenAI, client: openai.AsyncOpenAI
):
    async def said(**options: Any) -> str:
        return str((await create(client, **options)).choices[0].message.content)

    told = {"x-mock-script": json.dumps({"text": "header"})}
    mock_openai.always(Script(text="usual"))
    mock_openai.always(Script(text="mock's"), "mock")
    mock_openai.queue("mock", Script(text="queued"))
    assert await said(extra_headers=told) == "header"
    assert [await said(), await said(), await said(model="other")] == ["queued", "mock's", "usual"]
    mock_openai.answer_with(lambda body: Script(text=body["messages"][-1]["content"]))
    assert await said(extra_headers=told) == QUESTION[0]["content"]


async def test_it_counts_what_is_under_way_and_who_is_connected(
    mock_openai: MockOpenAI, client: openai.AsyncOpenAI
):
    mock_openai.always(Script(fault=Fault.NEVER_ANSWERS))
    tasks = [asyncio.create_task(create(client)) for _ in range(5)]
    await mock_openai.until(lambda: mock_openai.under_way == 5)
    assert mock_openai.open_connections == mock_openai.peak == mock_openai.total == 5
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await mock_openai.until(lambda: mock_openai.open_connections == 0)
    await mock_openai.idle()
    assert (mock_openai.under_way, mock_openai.abandoned, mock_openai.peak) == (0, 5, 5)


async def test_it_is_a_process_too():
    command = (sys.executable, "-m", "tests.mock_openai", "--text", "It is.")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(GUARD_S):
        address = json.loads(await process.stdout.readline())
        async with openai.AsyncOpenAI(api_key="sk-x", base_url=address["base_url"], max_retries=0) as client:
            assert (await create(client)).choices[0].message.content == "It is."
        process.terminate()
        assert json.loads(await process.stdout.readline())["requests"] == 1
        assert await process.wait() == 0
