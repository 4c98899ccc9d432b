"""Varied requests against a running gateway, from several connections at once, each answer kept.

A client of this kind repeats nothing: an answer that does not come, or comes as an error, is there to see.
"""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.integration.gateway_rig import Client, Reply

# A hang is what takes this much longer than the request itself allowed.
SLACK_S = 5.0
TIMEOUT_MS = 5000
PLACE = {"lat": 41.39, "lon": 2.16}
Request = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request. `status` is 0 where the connection broke, -1 where nothing came in time."""

    task: str
    parameters: dict[str, Any]
    status: int
    headers: dict[str, str]
    body: dict[str, Any]
    sent_at: float
    took_s: float

    @property
    def taken(self) -> bool:
        """Whether it was acknowledged."""
        return self.status == 200

    def told(self) -> str:
        """In a line, for the message of an assertion."""
        why = self.body.get("error") or self.body.get("degraded") or ""
        return f"{self.task}: {self.status} in {self.took_s:.3f} s {why}"


def near(rng: random.Random) -> dict[str, float]:
    """A place within some kilometres."""
    return {
        "lat": round(PLACE["lat"] + rng.uniform(-0.03, 0.03), 6),
        "lon": round(PLACE["lon"] + rng.uniform(-0.03, 0.03), 6),
    }


def stamp(seconds: float) -> str:
    """A time of a day in 2024, to the microsecond."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"2024-08-28T{10 + hours % 10:02}:{minutes:02}:{rest:09.6f}Z"


class Varied:
    """Requests of every task, none like another; `known` are orders whose intake was acknowledged."""

    def __init__(self, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._prefix = uuid4().hex[:8]
        self._numbers = itertools.count(1)
        self.known: list[str] = []
        self._makers: list[Callable[[int], Request]] = [
            self.fix, self.fix, self.fix, self.order, self.order, self.courier, self.outcome, self.signal,
            self.delivery, self.look_up, self.about_to_place, self.batch, self.stops, self.matrix,
            self.would_allocate, self.stats, self.outcomes, self.counts, self.deliveries,
        ]  # fmt: skip

    def __iter__(self) -> Iterator[Request]:
        while True:
            for maker in self._makers:
                yield maker(next(self._numbers))

    def fix(self, n: int) -> Request:
        return "report_gps", {
            "driver_id": f"driver-{self._prefix}-{n % 7}",
            "order_id": f"{self._prefix}-{n}",
            "location": near(self._rng),
            "speed_kph": round(self._rng.uniform(0, 40), 1),
            "trip_stage": "to_pickup",
            "traffic_density": self._rng.choice(["light", "moderate", "heavy"]),
            "zone_type": "commercial",
            "timestamp": stamp(n / 10),
            "anomaly_flags": [],
            "event_id": f"fix-{self._prefix}-{n}",
        }

    def an_order(self, n: int) -> dict[str, Any]:
        return {
            "order_id": f"{self._prefix}-{n}",
            "revision": 1,
            "status": "placed",
            "pickup": near(self._rng),
            "dropoff": near(self._rng),
            "placed_at": stamp(n / 10),
        }

    def order(self, n: int) -> Request:
        return "upsert_orders", {"orders": [self.an_order(n)]}

    def courier(self, n: int) -> Request:
        vehicle = self._rng.choice(["bicycle", "motorcycle", "car"])
        courier = {
            "driver_id": f"driver-{self._prefix}-{n}",
            "revision": 1,
            "vehicle_type": vehicle,
            "status": "off_shift",
        }
        return "upsert_couriers", {"couriers": [courier]}

    def outcome(self, n: int) -> Request:
        event = {
            "event_id": f"outcome-{self._prefix}-{n}",
            "run_id": f"run-{n}",
            "agent_name": f"agent-{self._prefix}",
            "action_type": "probe",
            "timestamp": stamp(n / 10),
            "status": self._rng.choice(["success", "failure"]),
            "severity": "info",
        }
        return "record_outcomes", {"events": [event]}

    def signal(self, n: int) -> Request:
        signal = {
            "signal_id": f"signal-{self._prefix}-{n}",
            "kind": "gps_anomaly",
            "source": "tests",
            "subject": f"driver-{n}",
            "severity": "info",
            "timestamp": stamp(n / 10),
        }
        return "record_signals", {"signals": [signal]}

    def delivery(self, n: int) -> Request:
        outcome = {
            "outcome_id": f"delivery-{self._prefix}-{n}",
            "order_id": f"{self._prefix}-{n}",
            "driver_id": "driver-1",
            "predicted_at": stamp(n / 10),
            "delivered_at": stamp(n / 10 + 600),
        }
        return "record_delivery_outcomes", {"outcomes": [outcome]}

    def look_up(self, n: int) -> Request:
        return ("get_order", {"order_id": self._rng.choice(self.known)}) if self.known else self.order(n)

    def about_to_place(self, n: int) -> Request:
        return "predict_eta", {"order": self.an_order(n)}

    def batch(self, n: int) -> Request:
        return "batch_predict_eta", {"queries": [{"order": self.an_order(n * 1000 + k)} for k in range(3)]}

    def stops(self, n: int) -> Request:
        orders = [self.an_order(n * 1000 + k) for k in range(self._rng.randint(1, 2))]
        return "optimize_route", {"start": near(self._rng), "orders": orders, "plane": {"speed_kph": 60}}

    def matrix(self, n: int) -> Request:
        places = [near(self._rng) for _ in range(3)]
        return "get_travel_times", {"origins": places, "destinations": places}

    def would_allocate(self, n: int) -> Request:
        return "allocate_drivers", {"dry_run": True, "order_ids": self.known[-3:]}

    def stats(self, n: int) -> Request:
        return "get_gps_stats", {}

    def outcomes(self, n: int) -> Request:
        return "list_outcomes", {"agent_name": f"agent-{self._prefix}", "page_size": 3}

    def counts(self, n: int) -> Request:
        return "list_failure_counts", {}

    def deliveries(self, n: int) -> Request:
        return "list_delivery_outcomes", {"page_size": 3}


@dataclass
class Traffic:
    """Connections that send one request after the other until told to stop."""

    port: int
    key: str
    connections: int = 8
    requests: Varied = field(default_factory=Varied)
    answers: list[Answer] = field(default_factory=list)
    timeout_ms: int = TIMEOUT_MS
    _stop: bool = False
    _workers: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> "Traffic":
        source = iter(self.requests)
        self._workers = [asyncio.create_task(self._work(source)) for _ in range(self.connections)]
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

    async def _work(self, source: Iterator[Request]) -> None:
        client = Client(self.port)
        try:
            while not self._stop:
                answer = await self._ask(client, *next(source))
                self.answers.append(answer)
                if answer.task == "upsert_orders" and answer.taken:
                    self.requests.known.append(answer.parameters["orders"][0]["order_id"])
        finally:
            await client.close()

    async def _ask(self, client: Client, task: str, parameters: dict[str, Any]) -> Answer:
        began = time.monotonic()
        reply: Reply | None = None
        status = 0
        try:
            async with asyncio.timeout(self.timeout_ms / 1000 + SLACK_S):
                reply = await client.task(task, parameters, key=self.key, timeout_ms=self.timeout_ms)
        except TimeoutError:
            status = -1
            await client.close()
        except (OSError, EOFError):
            await client.close()
        took_s = time.monotonic() - began
        if reply is None:
            return Answer(task, parameters, status, {}, {}, began, took_s)
        return Answer(task, parameters, reply.status, reply.headers, json.loads(reply.body), began, took_s)
