"""A load on an edge: so many requests a second, whether those before are answered or not, up to a bound."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

RATE: Final = 200.0
# What came back where nothing did.
BROKEN: Final = 0
_LATE_S: Final = 70.0
_WINDOW_S: Final = 5.0
# Under way at a time. A machine that is too slow for the rate gets fewer a second, rather than all at once.
_MOST: Final = 64
JSON: Final = "application/json"

Request = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """`due` is when it was sent, on the monotonic clock."""

    task: str
    parameters: dict[str, Any]
    status: int
    due: float
    took_s: float
    body: dict[str, Any]
    why: str = ""


@dataclass
class Load:
    """Sends what `source` gives, each once, on connections that are kept.

    Requests are due at the rate; one that is late, since too many are under way, is sent when there is room.
    """

    port: int
    key: str
    source: Iterator[Request]
    rate: float = RATE
    tls: ssl.SSLContext | None = None
    timeout_ms: int = 20_000
    told: Callable[[Answer], None] = lambda _answer: None
    """Of each answer, when it comes."""
    answers: list[Answer] = field(default_factory=list)
    sent: int = 0
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    _open: set[asyncio.Task[None]] = field(default_factory=set)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _pacing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Load:
        self._pacing = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pacing is not None:
            self._pacing.cancel()
            await asyncio.gather(self._pacing, return_exceptions=True)
        await asyncio.gather(*self._open)
        self.forget()

    async def until(self, count: int) -> None:
        """Returns once so many have been answered."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.answers) >= count)

    async def last(self, seconds: float) -> list[Answer]:
        """Those to what is due in the next seconds."""
        began = time.monotonic()
        await asyncio.sleep(seconds)
        ended = time.monotonic()
        if self._open:
            await asyncio.wait(list(self._open), timeout=2)
        return [answer for answer in self.answers if began <= answer.due < ended]

    async def _pace(self) -> None:
        began = time.monotonic()
        for number, request in enumerate(self.source):
            due = began + number / self.rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            while len(self._open) >= _MOST:
                await asyncio.wait(list(self._open), return_when=asyncio.FIRST_COMPLETED)
            self.sent += 1
            task = asyncio.create_task(self._one(request, time.monotonic()))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _one(self, request: Request, due: float) -> None:
        task, parameters = request
        body: dict[str, Any] = {}
        status, why = BROKEN, ""
        try:
            async with asyncio.timeout(_LATE_S):
                status, text = await self._ask(task, parameters)
            body = json.loads(text) if text else {}
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
        answer = Answer(task, parameters, status, due, time.monotonic() - due, body, why)
        self.answers.append(answer)
        self.told(answer)
        async with self._news:
            self._news.notify_all()

    async def _ask(self, task: str, parameters: dict[str, Any]) -> tuple[int, bytes]:
        reader, writer = await self._connection()
        try:
            body = json.dumps(
                {"task": task, "parameters": parameters, "timeout_ms": self.timeout_ms}
            ).encode()
            head = (
                f"POST /execute HTTP/1.1\r\nHost: edge\r\nX-API-Key: {self.key}\r\n"
                f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            status, headers = _head(await reader.readuntil(b"\r\n\r\n"))
            answer = await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return status, answer

    def forget(self) -> None:
        """Ends the connections that wait to be used again."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        name = "localhost" if self.tls is not None else None
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname=name)


def _head(raw: bytes) -> tuple[int, Mapping[str, str]]:
    first, *lines = raw.decode("latin-1").split("\r\n")
    headers = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in headers}


def quantile_ms(answers: list[Answer], share: float) -> float:
    """Of the times to the answer; nan without answers."""
    if not answers:
        return math.nan
    times = sorted(answer.took_s for answer in answers)
    return round(times[min(len(times) - 1, int(share * len(times)))] * 1000, 1)


def p99_by_window_ms(answers: list[Answer]) -> float:
    """The median over windows of 5 s of each window's p99: what one stall of the machine does not decide."""
    if not answers:
        return math.nan
    first = min(answer.due for answer in answers)
    windows: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        windows[int((answer.due - first) / _WINDOW_S)].append(answer)
    most = max(len(window) for window in windows.values())
    # What is left over at the end is no window.
    return round(median(quantile_ms(each, 0.99) for each in windows.values() if 2 * len(each) > most), 1)


def compared(answers: list[Answer], normal: list[Answer]) -> dict[str, float]:
    """p99 of answers and of what was normal, all of them and by windows, and the ratios."""
    now, usual = quantile_ms(answers, 0.99), quantile_ms(normal, 0.99)
    now_by, usual_by = p99_by_window_ms(answers), p99_by_window_ms(normal)
    return {
        "p99_ms": now,
        "normal_p99_ms": usual,
        "p99_over_normal": round(now / usual, 2),
        "p99_by_5s_ms": now_by,
        "normal_p99_by_5s_ms": usual_by,
        "p99_by_5s_over_normal": round(now_by / usual_by, 2),
    }


def statuses(answers: list[Answer]) -> dict[str, int]:
    """How often each came; 0 is where a connection broke."""
    return {str(status): count for status, count in sorted(Counter(a.status for a in answers).items())}
