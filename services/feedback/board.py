"""What alerts are judged by: a few counts of each agent's current window, always of all outcomes that came.

Windows themselves are put together when there is time for it. These counts are kept as outcomes come in, and
all agents are compared with a threshold at once, so that thousands of agents delay nobody's alert.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.feedback.metrics_columns import Floats
from services.feedback.panes import Pane
from services.feedback.percentiles import percentiles

_SHARES: Final[Mapping[str, float]] = {"p50_latency_ms": 0.5, "p95_latency_ms": 0.95, "p99_latency_ms": 0.99}
_OUTCOMES, _FAILED, _ERRORS, _LATENCY, _OVER = range(5)
_SUMS: Final[Mapping[str, int]] = {
    "failure_rate": _FAILED,
    "error_rate": _ERRORS,
    "average_latency_ms": _LATENCY,
}
_ROOM: Final = 64


class Figure(NamedTuple):
    """A figure of an agent's window, and of how many outcomes it is."""

    value: float
    outcomes: int


class Board:
    """The window that begins at `start`, of every agent. `limits`: latencies, in milliseconds, that panes
    have counted the longer ones of."""

    def __init__(self, start: int, limits: Sequence[float]) -> None:
        self.start = start
        self._limits = {limit: place for place, limit in enumerate(limits)}
        self._places: dict[str, int] = {}
        self._agents: list[str] = []
        self._panes: list[Sequence[Pane]] = []
        self._counts = np.zeros((_ROOM, _OVER + len(limits)))
        # Percentiles as they were at so many outcomes, which only ever grow.
        self._known: dict[tuple[str, str], Figure] = {}

    def put(self, found: Sequence[tuple[str, Sequence[Pane]]]) -> None:
        """Sets what came of some agents in this window, each once; not nothing."""
        if not found:
            return
        places, rows = [], []
        for agent, panes in found:
            place = self._places.setdefault(agent, len(self._agents))
            if place == len(self._agents):
                self._agents.append(agent)
                self._panes.append(panes)
            self._panes[place] = panes
            places.append(place)
            rows.append(_row(panes))
        while len(self._counts) < len(self._agents):
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._counts[places] = rows

    def figures(self, metric: str, above: float, agents: Collection[str]) -> dict[str, Figure]:
        """The metric of all whose figure is above `above`, and of those of `agents` that are here."""
        counts = self._counts[: len(self._agents)]
        asked = [place for agent in agents if (place := self._places.get(agent)) is not None]
        share = _SHARES.get(metric)
        if share is None:
            values = counts[:, _SUMS[metric]] / counts[:, _OUTCOMES]
            places = {*np.flatnonzero(values > above).tolist(), *asked}
            return {
                self._agents[n]: Figure(float(values[n]), int(counts[n, _OUTCOMES])) for n in sorted(places)
            }
        places = {*np.flatnonzero(self._may_exceed(counts, share, above)).tolist(), *asked}
        found = {self._agents[n]: self._percentile(n, metric, share) for n in sorted(places)}
        wanted = set(agents)
        return {agent: one for agent, one in found.items() if one.value > above or agent in wanted}

    def _may_exceed(self, counts: Floats, share: float, above: float) -> NDArray[np.bool_]:
        """Whose percentile can be above: the greater of the two values it lies between must be."""
        limit = self._limits.get(above)
        if limit is None:
            return np.ones(len(counts), dtype=np.bool_)
        outcomes = counts[:, _OUTCOMES]
        greater = np.minimum(np.floor(share * (outcomes - 1)) + 1, outcomes - 1)
        return np.asarray(counts[:, _OVER + limit] >= outcomes - greater)

    def _percentile(self, place: int, metric: str, share: float) -> Figure:
        key = self._agents[place], metric
        outcomes = int(self._counts[place, _OUTCOMES])
        known = self._known.get(key)
        if known is None or known.outcomes != outcomes:
            runs = [run for pane in self._panes[place] for run in pane.latencies.runs()]
            known = self._known[key] = Figure(percentiles(runs, (share,))[0], outcomes)
        return known


def _row(panes: Sequence[Pane]) -> list[float]:
    first = panes[0]
    row = [first.latencies.count, first.failed, first.errors, first.latency_ms, *first.over]
    for pane in panes[1:]:
        more = (pane.latencies.count, pane.failed, pane.errors, pane.latency_ms, *pane.over)
        row = [a + b for a, b in zip(row, more, strict=True)]
    return row


def latency_limits(thresholds: Mapping[str, Collection[float]]) -> tuple[float, ...]:
    """Latencies to count the longer ones of, from the thresholds of each metric."""
    return tuple(
        sorted({limit for name in _SHARES for limit in thresholds.get(name, ()) if math.isfinite(limit)})
    )
