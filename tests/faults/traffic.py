"""Varied requests against a running gateway, from several connections at once, each answer kept.

A client of this kind repeats nothing: an answer that does not come, or comes as an error, is there to see.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.faults.varied import Varied
from tests.integration.gateway_rig import Client, Reply

# A hang is what takes this much longer than the request itself allowed.
SLACK_S = 5.0
TIMEOUT_MS = 5000
# What came back where nothing did.
BROKEN = 0
HUNG = -1


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request. `status` is BROKEN where the connection broke, HUNG where nothing came."""

    task: str
    parameters: dict[str, Any]
    way: str
    status: int
    headers: dict[str, str]
    body: dict[str, Any]
    sent_at: float
    took_s: float

    @property
    def taken(self) -> bool:
        """Whether it was acknowledged, and by an answer to this request, not to another one."""
        if self.status != 200 or self.body["status"] != "success":
            return False
        result = self.body["result"]
        match self.task:
            case "report_gps":
                return bool(result["event_id"] == self.parameters["event_id"])
            case "get_order":
                return bool(result["order"]["order_id"] == self.parameters["order_id"])
            case "batch_predict_eta":
                return len(result["results"]) == len(self.parameters["queries"])
        return True

    @property
    def refused(self) -> bool:
        """Whether it was told to come back later, and when."""
        return self.status == 503 and int(self.headers.get("retry-after", "0")) >= 1

    @property
    def degraded(self) -> bool:
        """Whether a fallback had a part in it."""
        return self.taken and "degraded" in self.body

    def told(self) -> str:
        """In a line, for the message of an assertion."""
        why = self.body.get("error") or self.body.get("degraded") or ""
        return f"{self.task} by {self.way}: {self.status} in {self.took_s:.3f} s {why}"


@dataclass(frozen=True, slots=True)
class Way:
    """How a client sends: where to, on one connection or on a new one each time, with pauses or without."""

    name: str
    port: int
    path: str = "/execute"
    fresh: bool = False
    pause_s: float = 0.0


def ways(gateway: int, runtimes: list[int], *, pause_s: float = 0.0) -> list[Way]:
    """Those of a busy day. The pauses are shorter than the time in which a gateway drains."""
    return [
        *(Way(f"connection {n}", gateway, pause_s=pause_s) for n in range(6)),
        Way("new connections", gateway, fresh=True, pause_s=pause_s),
        Way("more new connections", gateway, fresh=True, pause_s=pause_s),
        Way("a slow client", gateway, pause_s=0.2),
        *(Way(f"runtime at {port}", port, path="/run", pause_s=pause_s) for port in runtimes),
    ]


@dataclass
class Traffic:
    """Clients that send one request after the other until told to stop."""

    ways: list[Way]
    key: str
    requests: Varied = field(default_factory=Varied)
    answers: list[Answer] = field(default_factory=list)
    timeout_ms: int = TIMEOUT_MS
    _stop: bool = False
    _workers: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> "Traffic":
        source = iter(self.requests)
        self._workers = [asyncio.create_task(self._work(way, source)) for way in self.ways]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._workers)

    async def more(self, count: int) -> None:
        """Until so many more answers have come."""
        target = len(self.answers) + count
        while len(self.answers) < target:
            assert not any(worker.done() for worker in self._workers)
            await asyncio.sleep(0.01)

    def since(self, moment: float) -> list[Answer]:
        """Answers to what was sent after a moment of the monotonic clock."""
        return [answer for answer in self.answers if answer.sent_at >= moment]

    def statuses(self) -> Counter[int]:
        """How often each status came."""
        return Counter(answer.status for answer in self.answers)

    async def _work(self, way: Way, source: Iterator[tuple[str, dict[str, Any]]]) -> None:
        client = Client(way.port)
        pauses = random.Random(way.name)
        try:
            while not self._stop:
                answer = await self._ask(client, way, *next(source))
                self.answers.append(answer)
                if answer.task == "upsert_orders" and answer.taken:
                    self.requests.known.append(answer.parameters["orders"][0]["order_id"])
                if way.fresh:
                    await client.close()
                if way.pause_s:
                    await asyncio.sleep(pauses.uniform(0, way.pause_s))
        finally:
            await client.close()

    async def _ask(self, client: Client, way: Way, task: str, parameters: dict[str, Any]) -> Answer:
        began = time.monotonic()
        reply: Reply | None = None
        status = BROKEN
        try:
            async with asyncio.timeout(self.timeout_ms / 1000 + SLACK_S):
                reply = await client.task(
                    task, parameters, path=way.path, key=self.key, timeout_ms=self.timeout_ms
                )
        except TimeoutError:
            status = HUNG
            await client.close()
        except (OSError, EOFError):
            await client.close()
        took_s = time.monotonic() - began
        if reply is None:
            return Answer(task, parameters, way.name, status, {}, {}, began, took_s)
        body = json.loads(reply.body)
        return Answer(task, parameters, way.name, reply.status, reply.headers, body, began, took_s)
