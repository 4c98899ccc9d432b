"""What waits in a process's outboxes, and for how long: events for the brokers, outcomes for feedback.

An outbox is asked every few seconds, since the answer is in the store or on disk; a scrape waits for neither.
Between two answers, and while nobody answers, what waits grows older.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_log = logging.getLogger(__name__)

_EVERY_S: Final = 2.0
_LONGEST_S: Final = 10.0

_SIZE: Final = ("waymesh_outbox_events", "Events that wait in an outbox; of `outcomes` those in memory alone")
_BYTES: Final = ("waymesh_outbox_bytes", "Bytes that wait on disk")
_AGE: Final = ("waymesh_outbox_oldest_age_seconds", "How long the oldest event of an outbox has waited")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What an outbox holds."""

    events: int
    oldest_age_s: float = 0.0
    size_bytes: int | None = None
    """None where it is not on disk."""


Probe: TypeAlias = Callable[[], Awaitable[Waiting]]


class Outboxes(Collector):
    """The outboxes of one process, by names that the code gives. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._probes: dict[str, Probe] = {}
        # With the time since when its oldest event waits.
        self._known: dict[str, tuple[Waiting, float]] = {}

    def watch(self, name: str, probe: Probe) -> None:
        """`probe` may raise; then what it said last holds."""
        self._probes[name] = probe

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(_EVERY_S)

    async def ask(self) -> None:
        """Asks each outbox once."""
        for name, probe in list(self._probes.items()):
            try:
                async with asyncio.timeout(_LONGEST_S):
                    waiting = await probe()
            except Exception as error:
                # The check of the store or the sender itself says what is wrong.
                _log.debug("the outbox %s did not answer: %s", name, type(error).__name__)
                continue
            self._known[name] = waiting, self._clock() - waiting.oldest_age_s

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without samples."""
        for name, documentation in (_SIZE, _BYTES, _AGE):
            yield GaugeMetricFamily(name, documentation, labels=["outbox"])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families as of now."""
        events, size, age = self.describe()
        now = self._clock()
        for name, (waiting, since) in self._known.items():
            some = waiting.events or waiting.size_bytes
            events.add_metric([name], waiting.events)
            age.add_metric([name], max(now - since, 0.0) if some else 0.0)
            if waiting.size_bytes is not None:
                size.add_metric([name], waiting.size_bytes)
        yield from (events, size, age)
