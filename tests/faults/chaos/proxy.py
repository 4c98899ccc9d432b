"""A TCP proxy that misbehaves when told to."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]

HOST: Final = "127.0.0.1"
_CHUNK: Final = 65_536
# Smaller pieces while it is slow, so that one of them does not hold the others back for long.
_SLOW_CHUNK: Final = 8_192


class Mode(StrEnum):
    """How connections fare."""

    PASS = "pass"
    SLOW = "slow"
    """Every piece comes later, and not many bytes a second."""
    STALL = "stall"
    """Nothing moves, nothing is lost: what was held goes on afterwards."""
    HALF_OPEN = "half-open"
    """Connections are taken and stay open, bytes are swallowed. Those that lost any are reset after it."""
    REFUSE = "refuse"
    """There are no connections, and no new ones."""


def tcp(host: str, port: int) -> Connect:
    """Upstream at an address."""
    return lambda: asyncio.open_connection(host, port)


def unix(path: str) -> Connect:
    """Upstream at a socket in the file system."""
    return lambda: asyncio.open_unix_connection(path)


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    task: asyncio.Task[None]
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    spoiled: bool = False
    """Whether bytes of it are gone."""

    def reset(self) -> None:
        """RST to both ends."""
        for writer in self.writers:
            _reset(writer)
        self.task.cancel()


class FaultProxy:
    """Between clients, who know its port, and an upstream that may come, go and be set later."""

    def __init__(self, name: str, upstream: Connect | None = None) -> None:
        self.name = name
        self.upstream = upstream
        self.mode = Mode.PASS
        self.port = 0
        self.latency_s = 0.0
        self.bytes_per_s = 0.0
        self._server: asyncio.Server | None = None
        self._place: socket.socket | None = None
        self._links: set[_Link] = set()
        self._moving = asyncio.Event()
        self._moving.set()

    @property
    def address(self) -> str:
        """For clients; the same for as long as it lives."""
        return f"{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._links)

    async def start(self) -> None:
        """Takes connections from now on."""
        place = _reserve(0)
        self.port = place.getsockname()[1]
        await self._listen(place)

    async def close(self) -> None:
        """Ends all of it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._place is not None:
            self._place.close()
            self._place = None
        tasks = [link.task for link in self._links]
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> None:
        """Resets all connections; new ones are welcome."""
        for link in list(self._links):
            link.reset()

    async def become(self, mode: Mode, *, latency_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """Changes how connections fare, those there are and those to come."""
        before, self.mode = self.mode, mode
        self.latency_s, self.bytes_per_s = latency_s, bytes_per_s
        if mode is Mode.STALL:
            self._moving.clear()
        else:
            self._moving.set()
        if before is Mode.HALF_OPEN and mode is not Mode.HALF_OPEN:
            for link in list(self._links):
                if link.spoiled:
                    link.reset()
        if mode is Mode.REFUSE and self._server is not None:
            # The port stays ours: a socket that is bound and does not listen refuses; nobody else gets it.
            self._place = _reserve(self.port)
            self._server.close()
            self._server = None
            self.cut()
        if mode is not Mode.REFUSE and self._place is not None:
            place, self._place = self._place, None
            await self._listen(place)

    async def _listen(self, place: socket.socket) -> None:
        self._server = await asyncio.start_server(self._serve, sock=place, limit=_CHUNK)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, [writer])
        self._links.add(link)
        try:
            await self._join(link, reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # whoever reset it has said so to both ends, or does below
        finally:
            self._links.discard(link)
            for each in link.writers:
                _reset(each)

    async def _join(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode is Mode.HALF_OPEN:
            link.spoiled = True  # its upstream will never hear of it
            await _swallow(reader)
            return
        await self._moving.wait()
        if self.upstream is None:
            return
        there, back = await self.upstream()
        link.writers.append(back)
        pumps = [
            asyncio.create_task(self._pump(link, reader, back)),
            asyncio.create_task(self._pump(link, there, writer)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        for each in (writer, back):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_SLOW_CHUNK if self.mode is Mode.SLOW else _CHUNK):
            await self._moving.wait()
            if self.mode is Mode.HALF_OPEN:
                link.spoiled = True
            if link.spoiled:
                continue
            if self.mode is Mode.SLOW:
                await asyncio.sleep(self.latency_s + len(data) / self.bytes_per_s)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(_CHUNK):
        pass


def _reserve(port: int) -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    place.setblocking(False)
    place.bind((HOST, port))
    return place


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.transport.is_closing():
        return
    held = writer.get_extra_info("socket")
    if held is not None and held.family == socket.AF_INET:
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
