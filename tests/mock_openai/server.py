"""The mock: what it was told to answer, what it was asked, and who is connected."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.mock_openai.connection import Connection
from tests.mock_openai.script import Fault, Script

Answer = Callable[[dict[str, Any]], Script]

_FAULT_MODEL: Final = "fault:"
# Only keeps what never comes from holding the run.
_GUARD_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))


class MockOpenAI:
    """One server. `record`: how many of the last requests are kept, None for all."""

    def __init__(self, *, record: int | None = None, models: tuple[str, ...] = ("mock",)) -> None:
        self.requests: deque[Seen] = deque(maxlen=record)
        # Requests being answered now, the most there were at once, and all there were.
        self.under_way = 0
        self.peak = 0
        self.total = 0
        # Requests whose caller went before the answer was complete.
        self.abandoned = 0
        self._models = models
        self._answer: Answer | None = None
        self._usual: dict[str, Script] = {}
        self._queued: dict[str, deque[Script]] = {}
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self.port = 0

    async def start(self, *, host: str = "127.0.0.1", port: int = 0, shared: bool = False) -> None:
        """Listens; port 0 takes a free one. `shared`: several processes on one port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), host, port, backlog=4096, reuse_port=shared or None
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends everything, whoever is connected."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self.until(lambda: not self._connections)

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def always(self, script: Script, model: str = "") -> None:
        """What `model` answers when nothing is queued for it; empty: every model without one of its own."""
        self._usual[model] = script

    def queue(self, model: str, *scripts: Script) -> None:
        """What `model` answers next, each once and in this order."""
        self._queued.setdefault(model, deque()).extend(scripts)

    def answer_with(self, answer: Answer | None) -> None:
        """Lets a function of the request's body say what is answered to everything."""
        self._answer = answer

    def asked(self, model: str) -> list[Seen]:
        """The recorded requests for one model."""
        return [seen for seen in self.requests if seen.model == model]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for what the connections and requests under way shall come to."""
        async with asyncio.timeout(_GUARD_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def idle(self) -> None:
        """Waits until no request is under way."""
        await self.until(lambda: self.under_way == 0)

    def models(self) -> bytes:
        """The answer of /models."""
        data = [{"id": model, "object": "model", "created": 0, "owned_by": "mock"} for model in self._models]
        return json.dumps({"object": "list", "data": data}).encode()

    def connected(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._changed.set()

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._changed.set()

    def began(self, path: str, headers: Mapping[str, str], body: dict[str, Any]) -> Script:
        """Counts a request in and says how it is to be answered."""
        self.total += 1
        self.under_way += 1
        if self.under_way > self.peak:
            self.peak = self.under_way
        if self.requests.maxlen != 0:
            self.requests.append(Seen(path, headers, body))
        self._changed.set()
        return self._script(headers, body)

    def ended(self) -> None:
        self.under_way -= 1
        self._changed.set()

    def _script(self, headers: Mapping[str, str], body: dict[str, Any]) -> Script:
        if self._answer is not None:
            return self._answer(body)
        told = headers.get("x-mock-script")
        if told is not None:
            return Script.from_json(json.loads(told))
        model = str(body.get("model", ""))
        queued = self._queued.get(model)
        if queued:
            return queued.popleft()
        usual = self._usual.get(model) or self._usual.get("")
        if usual is not None:
            return usual
        if model.startswith(_FAULT_MODEL):
            return Script(fault=Fault(model.removeprefix(_FAULT_MODEL)))
        return _PLAIN


_PLAIN: Final = Script()
