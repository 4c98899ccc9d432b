"""A client of event streams on a bare socket, and runs of agents that a test steers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse
from waymesh.agent.v1.run_event_pb2 import Heartbeat, RunAccepted, RunResult, Token
from waymesh.agent.v1.task_pb2 import AskResponse

from tests.integration.gateway_rig import JSON, KEY, Client, Reply

EVENTS = "text/event-stream"
# Only against hangs.
HANG_S = 60.0


@dataclass(frozen=True)
class Event:
    """One event as it came."""

    id: str | None
    name: str
    data: Any


class Streamed:
    """An answer that is under way, read chunk by chunk."""

    def __init__(self, reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> None:
        self._reader = reader
        self.status = status
        self.headers = headers

    async def chunk(self) -> bytes:
        """The next chunk as it was sent; empty at the end."""
        async with asyncio.timeout(HANG_S):
            size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
            data = await self._reader.readexactly(size)
            assert await self._reader.readexactly(2) == b"\r\n"
            return data

    async def event(self) -> Event | None:
        """The next event, which is one chunk; None at the end."""
        data = await self.chunk()
        if not data:
            return None
        assert data.endswith(b"\n\n")
        assert data.count(b"\n\n") == 1
        lines = dict(line.split(": ", 1) for line in data.decode().strip("\n").split("\n"))
        assert list(lines) in (["id", "event", "data"], ["event", "data"])
        return Event(lines.get("id"), lines["event"], json.loads(lines["data"]))

    async def rest(self) -> list[Event]:
        """All events to the end."""
        found = []
        while (event := await self.event()) is not None:
            found.append(event)
        return found


async def begin(
    client: Client, body: object, *, path: str = "/execute", headers: Mapping[str, str] = {}
) -> Streamed:
    """Sends a request for events, and gives the answer once its head has come."""
    sent = {"Content-Type": JSON, "X-API-Key": KEY, "Accept": EVENTS, **headers}
    await client.send("POST", path, json.dumps(body).encode(), sent)
    reader, _ = await client.connect()
    async with asyncio.timeout(HANG_S):
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    told = {name.lower(): value for name, _, value in (line.partition(": ") for line in raw[1:] if line)}
    return Streamed(reader, int(raw[0].split()[1]), told)


async def refused(
    client: Client, body: object, *, path: str = "/execute", headers: Mapping[str, str] = {}
) -> Reply:
    """The same, where the answer is no stream."""
    return await client.post(path, body, headers={"Accept": EVENTS, **headers})


def ask(question: str = "where is order_1?", **more: Any) -> dict[str, Any]:
    """A task that streams."""
    return {"task": "ask", "parameters": {"question": question}, **more}


def accepted(cursor: str = "r.1") -> StreamRunResponse:
    """What each run begins with."""
    return StreamRunResponse(
        cursor=cursor, run_id="r", accepted=RunAccepted(agent_name="dispatcher", task="ask")
    )


def token(n: int, text: str = "a") -> StreamRunResponse:
    """A piece of text."""
    return StreamRunResponse(cursor=f"r.{n}", run_id="r", token=Token(text=text))


def heartbeat(n: int) -> StreamRunResponse:
    """Nothing happened."""
    return StreamRunResponse(cursor=f"r.{n}", run_id="r", heartbeat=Heartbeat())


def result(n: int, answer: str = "at the corner") -> StreamRunResponse:
    """The last event."""
    return StreamRunResponse(
        cursor=f"r.{n}",
        run_id="r",
        result=RunResult(streamed=True, ask=AskResponse(run_id="r", answer=answer)),
    )


class Run:
    """A StreamRun that says what a test puts into it, when it does; and knows how its call ended."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[StreamRunResponse | Exception | None] = asyncio.Queue()
        self.requests: list[Any] = []
        self.ended = asyncio.Event()
        self.cancelled = False

    async def __call__(self, request: Any, _context: Any) -> AsyncIterator[StreamRunResponse]:
        self.requests.append(request)
        try:
            while (each := await self.said.get()) is not None:
                if isinstance(each, Exception):
                    raise each
                yield each
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled = True
            raise
        finally:
            self.ended.set()

    def says(self, *responses: StreamRunResponse | Exception | None) -> None:
        """From now on; None ends it."""
        for each in responses:
            self.said.put_nowait(each)
