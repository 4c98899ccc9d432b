"""Whatever bytes a server sends, a question ends in a reply or a failure, and nothing stays open."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from services.agents.llm import ErrorKind, LanguageModels, ModelFailure, ModelReply, ModelsConfig
from tests.integration.llm_rig import KEY, RIGHT, SCHEMA, Book, request
from tests.mock_openai import Script, answers

GUARD_S = 20.0
WHOLE = answers.response(200, answers.whole(Script(text=RIGHT), {"model": "m"}, 100))
EVENTS = b"".join(answers.events(Script(text=RIGHT), {"model": "m"}, 100))
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + EVENTS
LIMIT = answers.response(429, b'{"error": {"code": "rate_limit_exceeded"}}', {"retry-after": "1"})


@asynccontextmanager
async def serving(answer: Callable[[], bytes]) -> AsyncIterator[tuple[LanguageModels, set[Any]]]:
    """Models of a server that answers every request with the same bytes and hangs up."""
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            writers.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = ModelsConfig(api_key=SecretStr(KEY), base_url=f"http://127.0.0.1:{port}/v1", model="m")
    asked = LanguageModels(config, jitter=lambda: 0.0)
    try:
        yield asked, writers
    finally:
        await asked.close()
        server.close()
        await server.wait_closed()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The data with a few bytes changed, cut out, doubled or put in."""
    made = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(5):
            case 0:
                made[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del made[at : at + rng.randrange(40)]
            case 2:
                made[at:at] = made[at : at + rng.randrange(200)]
            case 3:
                made[at:at] = rng.choice(
                    (b"\r\n\r\n", b"\n\n", b"\x00", b"}", b"[" * 50_000, b"9" * 5000, b"\xff")
                )
            case _:
                del made[at:]
    return bytes(made)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("data", [WHOLE, STREAM, LIMIT], ids=["whole", "events", "error"])
async def test_no_answer_can_break_the_client(data: bytes, streamed: bool):
    rng = random.Random(len(data) + streamed)
    book = Book()
    async with serving(lambda: mutated(data, rng)) as (asked, writers):
        for _ in range(60):
            asked._breakers.clear()
            question = asked.complete(
                request(schema=SCHEMA, timeout_s=2.0), ledger=book, on_text=_ignore if streamed else None
            )
            async with asyncio.timeout(GUARD_S):
                [outcome] = await asyncio.gather(question, return_exceptions=True)
            if isinstance(outcome, ModelReply):
                assert set(outcome.parsed) == {"order_id", "minutes"}
                attempts = outcome.failed
            else:
                assert isinstance(outcome, ModelFailure)
                attempts = outcome.attempts
            assert ErrorKind.INTERNAL not in {attempt.error_kind for attempt in attempts}
            assert asked.slots.taken == 0
        while writers:
            await asyncio.sleep(0)
    assert book.is_even()


async def test_the_answers_it_mutates_are_right_as_they_are():
    for data, told in ((WHOLE, None), (STREAM, _ignore)):
        async with serving(lambda data=data: data) as (asked, _):
            reply = await asked.complete(request(schema=SCHEMA), on_text=told)
        assert isinstance(reply, ModelReply)
        assert reply.text == RIGHT


def _ignore(_: str) -> None:
    pass
