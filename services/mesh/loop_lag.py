"""How late an event loop is: what blocks it keeps every call of the process waiting."""

import asyncio
from typing import Final

from prometheus_client import CollectorRegistry, Histogram

_EVERY_S: Final = 0.25
_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """One observation every quarter of a second; run `run` in the background."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "waymesh_event_loop_lag_seconds",
            "How much later than it was due the event loop ran a timer",
            buckets=_BUCKETS_S,
            registry=registry,
        )

    async def run(self) -> None:
        """Measures until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self._lag.observe(max(loop.time() - due, 0.0))
