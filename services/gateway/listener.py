"""The HTTP listeners of a gateway: a successor can share them, and they drain without losing a request."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from services.gateway.app import App
from services.gateway.connection import MAX_CONNECTIONS, Connection, Connections, Refused
from services.gateway.crowd import Crowd, room_for
from services.gateway.handshakes import Handshakes
from services.mesh.steering import SETTLE_S, steer_away

_BACKLOG: Final = 2048
_LOOK_S: Final = 0.02
# How long a process that could end waits for the rest of a request that has begun to arrive, in seconds.
_ARRIVING_S: Final = 2.0
# Turns of the loop from a connection's acceptance to its being known here, and from its abort to its end.
_TURNS: Final = 5


@dataclass(slots=True)
class Listener:
    """Where an application is served; `port` is the bound one after the start."""

    host: str
    port: int
    app: App
    state: ServerState
    # None: it is plain.
    handshakes: Handshakes | None = None
    bound: socket.socket | None = None
    server: asyncio.Server | None = None

    def bind(self) -> socket.socket:
        """The bound socket. Raises OSError."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            bound.setblocking(False)
            bound.bind((self.host, self.port))
        except OSError as error:
            bound.close()
            raise OSError(f"{self.host}:{self.port} cannot be bound: {error.strerror}") from error
        self.bound, self.port = bound, bound.getsockname()[1]
        return bound


class HttpServer:
    """All listeners of a process. Start, drain and stop as GrpcServer has them, for Lifecycle."""

    def __init__(
        self,
        *,
        max_head_bytes: int,
        keep_alive_s: float,
        max_connections: int = MAX_CONNECTIONS,
        on_draining: Callable[[], None] = lambda: None,
        on_refused: Refused = lambda _name, _status: None,
        grace_s: float = 60.0,
        arriving_s: float = _ARRIVING_S,
    ) -> None:
        self._connections = Connections(max_head_bytes, on_refused, Crowd(room_for(max_connections)))
        self._keep_alive_s = keep_alive_s
        self._on_draining = on_draining
        self._grace_s = grace_s
        self._arriving_s = arriving_s
        self._listeners: list[Listener] = []
        self._clock: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._connections.crowd.size

    def add(self, host: str, port: int, app: App, handshakes: Handshakes | None = None) -> Listener:
        """Serves `app` there from the start on, encrypted with `handshakes`; port 0 is any free one."""
        listener = Listener(host, port, app, ServerState(), handshakes)
        self._listeners.append(listener)
        return listener

    async def start(self) -> None:
        """Serves from now on. Raises OSError if a port is taken by another program."""
        loop = asyncio.get_running_loop()
        # What it warns of is answered and counted here; its lines carry no request's id.
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        bound = [listener.bind() for listener in self._listeners]
        self._tell_time()
        self._clock = asyncio.create_task(self._keep_time(), name="http-date")
        for listener, sock in zip(self._listeners, bound, strict=True):
            config = Config(
                listener.app,
                http=Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=self._keep_alive_s,  # type: ignore[arg-type]
            )
            config.load()
            listener.server = await loop.create_server(
                self._factory(config, listener), sock=sock, backlog=_BACKLOG
            )

    def _factory(self, config: Config, listener: Listener) -> Callable[[], asyncio.Protocol]:
        def make() -> Connection:
            return Connection(config, listener.state, self._connections, listener.app.name)

        handshakes = listener.handshakes
        return make if handshakes is None else lambda: handshakes.accept(make, self._connections.crowd)

    @property
    def _shaking_hands(self) -> bool:
        return any(each.handshakes is not None and each.handshakes.under_way for each in self._listeners)

    async def drain(self, wait_s: float = 0.0) -> None:
        """Answers go on, each the last of its connection; new connections go to a successor if there is one.

        After `wait_s` nothing new is accepted, idle connections end, and requests under way get `grace_s`;
        those that have not arrived as a whole within `arriving_s` are refused, since no owner has seen them.
        """
        self._on_draining()
        self._connections.draining = True
        for listener in self._listeners:
            if listener.bound is not None:
                steer_away(listener.bound)
        for connection in list(self._connections.open):
            connection.drain()
        await asyncio.sleep(max(wait_s, SETTLE_S))
        await self._accept_no_more()
        now = time.monotonic()
        arrived_by, until = now + self._arriving_s, now + self._grace_s
        while (self._connections.open or self._shaking_hands) and now < until:
            for connection in list(self._connections.open):
                if connection.idle:
                    connection.close()
                elif now > arrived_by:
                    connection.give_up()
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()

    async def stop(self) -> None:
        """Ends at once what is still under way."""
        clock, self._clock = self._clock, None
        if clock is not None:
            clock.cancel()
        await self._accept_no_more()
        for listener in self._listeners:
            if listener.handshakes is not None:
                await listener.handshakes.stop()
        tasks = [task for listener in self._listeners for task in list(listener.state.tasks)]
        for connection in list(self._connections.open):
            connection.transport.abort()
        # Aborting cancels them; they end on their own once they have.
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await _turns()

    async def _accept_no_more(self) -> None:
        """Ends the listeners; what they have accepted until then is known on return.

        A connection takes several turns to be made, and asyncio loses one whose server closes meanwhile.
        """
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            if listener.server is not None and listener.bound is not None:
                loop.remove_reader(listener.bound)  # uvloop accepts otherwise, and loses none
        await _turns()
        for listener in self._listeners:
            if listener.server is not None:
                listener.server.close()
                listener.server = None
            if listener.bound is not None:
                listener.bound.close()
                listener.bound = None
        await _turns()

    def _tell_time(self) -> None:
        date = (b"date", formatdate(time.time(), usegmt=True).encode())
        for listener in self._listeners:
            listener.state.default_headers = [date]

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(1 - time.time() % 1)
            self._tell_time()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
