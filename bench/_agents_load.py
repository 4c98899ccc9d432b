"""The load of bench/agents.py: how long each request takes, with so many under way at a time.

One way for all servers that speak HTTP: requests written beforehand, connections that are kept, the parser of
httptools, and nothing else, so that the client takes next to nothing of what is measured. An answer that is
not the one expected ends the bench.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httptools
import numpy as np

_GUARD_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Taken:
    """One measurement: seconds that each request took, in the order of their ends, and all of it."""

    each_s: Sequence[float]
    all_s: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.each_s) / self.all_s

    def percentile_ms(self, share: float) -> float:
        """Milliseconds within which that share of the requests, 0 to 100, was answered."""
        return float(np.percentile(self.each_s, share)) * 1000


class Load(Protocol):
    """A way to ask a server."""

    async def run(self, connections: int, seconds: float) -> Taken: ...


def request(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A whole POST as it goes over the wire."""
    parts = urlsplit(url)
    lines = {"host": parts.netloc, "content-type": "application/json", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {parts.path} HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


class _Connection(asyncio.Protocol):
    """Asks, waits for the answer, and asks again, until told that it is enough."""

    def __init__(self, load: HttpLoad, first: int, until: float, each_s: list[float]) -> None:
        self._load = load
        self._at = first
        self._until = until
        self._each_s = each_s
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._began = 0.0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc}")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        body = b"".join(self._body)
        self._body.clear()
        status = self._parser.get_status_code()
        if status != 200 or not self._load.expected(body):
            self._fail(f"{status} {body[:500].decode(errors='replace')}")
            return
        self._each_s.append(now - self._began)
        # A parser is good for one answer where the server does not say `keep-alive`.
        self._parser = httptools.HttpResponseParser(self)
        if now < self._until:
            self._ask()
        elif not self.done.done():
            self.done.set_result(None)
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _ask(self) -> None:
        assert self._transport is not None
        requests = self._load.requests
        self._at = (self._at + 1) % len(requests)
        self._began = time.perf_counter()
        self._transport.write(requests[self._at])

    def _fail(self, said: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(said))


@dataclass(slots=True)
class HttpLoad:
    """A server that is asked by HTTP; `expected` says whether an answer's body is right."""

    url: str
    bodies: Sequence[bytes]
    expected: Callable[[bytes], bool]
    headers: Mapping[str, str] = field(default_factory=dict)
    requests: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.requests = [request(self.url, body, self.headers) for body in self.bodies]

    async def run(self, connections: int, seconds: float) -> Taken:
        each_s: list[float] = []
        began = time.perf_counter()
        step = len(self.requests) // connections
        found = [await self._connect(place * step, began + seconds, each_s) for place in range(connections)]
        try:
            async with asyncio.timeout(seconds + _GUARD_S):
                await asyncio.gather(*(connection.done for connection in found))
        except (RuntimeError, TimeoutError) as error:
            sys.exit(f"{self.url}: {error or 'no answer'}")
        finally:
            for connection in found:
                connection.close()
        return Taken(each_s, time.perf_counter() - began)

    async def ready(self, within_s: float) -> None:
        """Until it answers as expected. Ends the bench if it does not in time."""
        until = time.monotonic() + within_s
        last = ""
        while time.monotonic() < until:
            try:
                connection = await self._connect(0, 0.0, [])
                async with asyncio.timeout(_GUARD_S):
                    await connection.done
            except (OSError, RuntimeError, TimeoutError) as error:
                last = str(error)
                await asyncio.sleep(0.2)
            else:
                return
        sys.exit(f"{self.url} does not answer: {last}")

    async def _connect(self, first: int, until: float, each_s: list[float]) -> _Connection:
        parts = urlsplit(self.url)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self, first, until, each_s), str(parts.hostname), parts.port or 80
        )
        return connection


@dataclass(slots=True)
class CallLoad:
    """A server that is asked by a coroutine, which gets a number and says whether the answer is right."""

    call: Callable[[int], Awaitable[bool]]

    async def run(self, connections: int, seconds: float) -> Taken:
        each_s: list[float] = []
        began = time.perf_counter()
        until = began + seconds

        async def ask(place: int) -> None:
            number = place
            now = time.perf_counter()
            while now < until:
                if not await self.call(number):
                    sys.exit("an answer was not the one expected")
                ended = time.perf_counter()
                each_s.append(ended - now)
                now, number = ended, number + connections

        await asyncio.gather(*(ask(place) for place in range(connections)))
        return Taken(each_s, time.perf_counter() - began)


def texts(count: int) -> list[str]:
    """Different questions of the same length, without a number that an answer would have to rest on."""
    return [f"Where is the parcel of customer {number:05d}, and is it late?" for number in range(count)]


def as_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
