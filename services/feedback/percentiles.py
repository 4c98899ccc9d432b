"""Percentiles of values that keep coming in, exact at any time.

Values lie in a few sorted runs, each many times as long as the next, so that a value is merged some log(n)
times in all. A percentile of many runs is found between two samples of them: only what lies between is looked
at.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from services.feedback.metrics_columns import Floats

# Up to this many values, sorting them all is quicker than looking for where to look.
_FEW: Final = 16_384
# How many times longer a run is than the next, at least: fewer runs to look at, more merging.
_RATIO: Final = 8
# Values that were asked for so often while none came are taken not to grow any more: they become one run.
_AT_REST: Final = 20
_NONE: Final = np.empty(0, dtype=np.float64)


class Values:
    """Values in sorted runs."""

    __slots__ = ("_asked", "_elsewhere", "_new", "_runs", "count")

    def __init__(self) -> None:
        self.count = 0
        self._runs: list[Floats] = []
        self._new: list[Floats] = []
        # Times asked since the last value came.
        self._asked = 0
        # Where all of them are if not here.
        self._elsewhere: Callable[[], Iterable[Values]] | None = None

    def add(self, values: Floats) -> None:
        """Takes the array over: nobody may change it afterwards."""
        self.count += len(values)
        if self._elsewhere is None:
            self._new.append(values)

    def leave_to(self, others: Callable[[], Iterable["Values"]]) -> None:
        """Keeps none of them until they are asked for: what is added to this was added to one of `others`."""
        self._elsewhere = others
        self._runs, self._new = [], []

    def runs(self) -> Sequence[Floats]:
        """All values, sorted within each run."""
        if self._elsewhere is not None:
            self._runs = [np.sort(np.concatenate([run for one in self._elsewhere() for run in one.runs()]))]
            self._elsewhere = None
            self._asked = 0
        runs = self._runs
        if self._new:
            runs.append(np.sort(np.concatenate(self._new)))
            self._new.clear()
            self._asked = 0
            while len(runs) > 1 and len(runs[-2]) < _RATIO * len(runs[-1]):
                last = runs.pop()
                runs[-1] = np.sort(np.concatenate((runs[-1], last)))
        elif len(runs) > 1:
            self._asked += 1
            if self._asked == _AT_REST:
                runs[:] = [np.sort(np.concatenate(runs))]
        return runs


def percentiles(runs: Sequence[Floats], shares: Sequence[float]) -> list[float]:
    """The percentiles at these shares (0 to 1), linear between the nearest two values, of at least one value.

    As percentile_cont of PostgreSQL, to the last bit: float8 arithmetic, low + (high - low) * fraction.
    https://www.postgresql.org/docs/current/functions-aggregate.html
    """
    count = sum(len(run) for run in runs)
    places = [share * (count - 1) for share in shares]
    result = []
    for place, (low, high) in zip(places, ranked(runs, [int(place) for place in places]), strict=True):
        fraction = place - int(place)
        result.append(low if fraction == 0 else low + fraction * (high - low))
    return result


def ranked(runs: Sequence[Floats], ranks: Sequence[int]) -> list[tuple[float, float]]:
    """The value at each rank, counted from 0, among all values of the sorted runs, and the one that follows.

    The last one is followed by itself.
    """
    count = sum(len(run) for run in runs)
    if count <= _FEW or len(runs) == 1:
        values = runs[0] if len(runs) == 1 else np.sort(np.concatenate(runs))
        return [(float(values[rank]), float(values[min(rank + 1, count - 1)])) for rank in ranks]
    # A sample stands for the `stride` values of its run that begin with it. So the value at a rank lies at
    # most one stride per run from where the samples alone would put it.
    stride = max(16, int(np.sqrt(count / len(runs))))
    samples = np.sort(np.concatenate([run[::stride] for run in runs]))
    margin = len(runs) + 1
    result: list[tuple[float, float]] = []
    for rank in ranks:
        guess = rank // stride
        low = float(samples[guess - margin]) if guess >= margin else -np.inf
        high = float(samples[guess + margin + 1]) if guess + margin + 1 < len(samples) else np.inf
        result.append(_between(runs, rank, min(rank + 1, count - 1), low, high))
    return result


def _between(
    runs: Sequence[Floats], rank: int, following: int, low: float, high: float
) -> tuple[float, float]:
    """The values at both ranks, which are known to be from `low` to `high`."""
    upto = [int(run.searchsorted(low, "right")) for run in runs]
    ends = [int(run.searchsorted(high, "left")) for run in runs]
    below, inside = sum(upto), sum(ends)
    pieces = [run[a:b] for run, a, b in zip(runs, upto, ends, strict=True) if a < b]
    values = np.sort(np.concatenate(pieces)) if pieces else _NONE

    def at(place: int) -> float:
        if place < below:
            return low
        return high if place >= inside else float(values[place - below])

    return at(rank), at(following)
