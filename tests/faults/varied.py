"""Requests of every task, none like another."""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

PLACE = {"lat": 41.39, "lon": 2.16}
Request = tuple[str, dict[str, Any]]
# What is asked about routes has an answer, also by a slow courier's usual speed.
LIMITS = {"limits": {"max_food_wait_minutes": 600, "max_duration_minutes": 900, "max_length_km": 200}}


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


def now() -> str:
    """The time it is."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")


class Varied:
    """`known` are orders whose intake was acknowledged, for the requests that are about such."""

    def __init__(self, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._prefix = uuid4().hex[:8]
        self._numbers = itertools.count(1)
        self._allocations = 0
        self.known: list[str] = []
        self._makers: list[Callable[[int], Request]] = [
            self.fix, self.order, self.about_to_place, self.courier, self.outcome, self.fix, self.batch,
            self.stops, self.look_up, self.signal, self.matrix, self.order, self.allocate, self.stats,
            self.fix, self.roads, self.outcomes, self.cancel, self.delivery, self.counts, self.deliveries,
        ]  # fmt: skip

    def __iter__(self) -> Iterator[Request]:
        while True:
            for maker in self._makers:
                yield maker(next(self._numbers))

    def of_a_fleet(self) -> Iterator[Request]:
        """As a fleet asks: of 40 requests 16 fixes, four arrival times, four looks at an order, two new
        orders, one of each of the others."""
        once = list(dict.fromkeys(self._makers))
        makers = [*once, *[self.fix] * 15, *[self.about_to_place] * 3, *[self.look_up] * 3, self.order]
        while True:
            self._rng.shuffle(makers)
            for maker in makers:
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
            "status": "idle" if n % 5 == 0 else "off_shift",
            "position": near(self._rng),
            "position_at": now(),
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
        return "optimize_route", {
            "start": near(self._rng),
            "orders": orders,
            "plane": {"speed_kph": 60},
            **LIMITS,
        }

    def roads(self, n: int) -> Request:
        """Stops whose travel times route has to ask eta for."""
        return "optimize_route", {"start": near(self._rng), "orders": [self.an_order(n)], **LIMITS}

    def matrix(self, n: int) -> Request:
        places = [near(self._rng) for _ in range(3)]
        return "get_travel_times", {"origins": places, "destinations": places}

    def allocate(self, n: int) -> Request:
        """Every second time for good."""
        self._allocations += 1
        return "allocate_drivers", {"dry_run": self._allocations % 2 == 0, "order_ids": self.known[-3:]}

    def cancel(self, n: int) -> Request:
        """An order of some time ago, once."""
        if len(self.known) < 50:
            return self.order(n)
        cancelled = self.known.pop(0)
        return "cancel_order", {"order_id": cancelled, "reason": "tests"}

    def stats(self, n: int) -> Request:
        return "get_gps_stats", {}

    def outcomes(self, n: int) -> Request:
        return "list_outcomes", {"agent_name": f"agent-{self._prefix}", "page_size": 3}

    def counts(self, n: int) -> Request:
        return "list_failure_counts", {}

    def deliveries(self, n: int) -> Request:
        return "list_delivery_outcomes", {"page_size": 3}
