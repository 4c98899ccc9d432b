"""How far predictions were off, and what that says about the next one.

Errors are kept as ln((actual + 1) / (predicted + 1)), minutes, near nodes of the predicted minutes: the
quantiles are those of what was seen there, among samples of a prior with a long tail. This is split conformal
prediction with a normalised score (Papadopoulos et al. 2002), one calibration set per group and node; how
often the last intervals held says how far they reach (reach.py).
"""

from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.eta.fixes import Ints
from services.eta.reach import Reach
from services.roads.great_circle import Floats

BEFORE_PICKUP: Final = 0
AFTER_PICKUP: Final = 1
OVERDUE: Final = 2
"""After pickup, for longer than the direct way takes (progress.py)."""
PICKUP: Final = 3
"""Of the pickup itself; the others are of the handover."""
GROUPS: Final = 4

NODES_MIN: Final = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
_NODE_LOGS: Final = np.log1p(NODES_MIN)
LEVELS: Final = (np.arange(40) + 0.5) / 40
_SAMPLES_PER_NODE: Final = 800
# Samples that the prior counts as: 20 deliveries, which give two each. Errors of one trip are alike,
# and the trips that end first are the short ones.
_PRIOR_SAMPLES: Final = 40.0
# What is believed before any error was seen. Going straight to the door, two of three couriers take at most
# 1.8 times as long as estimated and at least that much shorter: nothing is known yet of the city's streets,
# of the fleet's speeds and of the time at doors.
_PRIOR_SIGMA: Final = 0.6
# But eta is not told what else a courier has to do first: up to three other orders may be on board, and
# people run errands. If there is another stop, every further one is as likely as not, and each takes about
# ten minutes with the way there: an exponential time of 20 minutes on average.
_STOPS_MIN: Final = 20.0
# How likely there is one: an even chance before pickup, less for who has just left with the order, more for
# who should be there by now. Before the pickup itself what the first two leave: 1 - (1 - 1/2) / (1 - 1/3).
_STOP_CHANCE: Final = (1 / 2, 1 / 3, 2 / 3, 1 / 4)
# A quantile's minutes must not fall as predicted minutes rise: how fast scores may fall along the nodes.
_STEEPEST: Final = 0.95


def _prior() -> NDArray[np.float64]:
    """Scores at LEVELS before anything was seen, by group and node."""
    log_minutes = np.linspace(0, np.log1p(3000.0), 500)
    straight_steps = [NormalDist(0, _PRIOR_SIGMA).inv_cdf((step + 0.5) / 100) for step in range(100)]
    table = np.empty((GROUPS, len(NODES_MIN), len(LEVELS)))
    for place, node in enumerate(_NODE_LOGS.tolist()):
        straight_min = np.maximum(np.expm1(node + np.array(straight_steps)), 0.0)
        beyond = np.expm1(log_minutes)[:, None] - straight_min
        by_then = (beyond >= 0).mean(axis=1)
        with_stops = (1 - np.exp(-np.maximum(beyond, 0) / _STOPS_MIN)).mean(axis=1)
        for group, chance in enumerate(_STOP_CHANCE):
            reached = (1 - chance) * by_then + chance * with_stops
            table[group, place] = np.interp(LEVELS, reached, log_minutes) - node
    return table


_PRIOR: Final = _prior()


class Spread:
    """Distribution of the actual minutes given the predicted ones."""

    def __init__(self) -> None:
        # For each group and node a 3 × k table: scores, their weights, and how much of a sample each is here.
        self._samples = [[np.empty((3, 0)) for _ in NODES_MIN] for _ in range(GROUPS)]
        self._grid: NDArray[np.float64] = _PRIOR.copy()
        self._reach = Reach(GROUPS, len(NODES_MIN))

    def learn(self, group: Ints, predicted_min: Floats, actual_min: Floats, weight: Floats) -> None:
        """Take in what became of predictions, oldest first; `weight`: how many each stands for."""
        scores = np.log1p(np.maximum(actual_min, 0)) - np.log1p(np.maximum(predicted_min, 0))
        above, share = _between(np.log1p(np.maximum(predicted_min, 0)))
        for one in range(GROUPS):
            for place in range(len(NODES_MIN)):
                # Each score tells of the node below it and of the one above, the nearer the more.
                part = np.where(above == place, share, np.where(above - 1 == place, 1 - share, 0.0))
                new = (group == one) & (part > 0)
                if new.any():
                    table = np.stack([scores[new], weight[new] * part[new], part[new]])
                    kept = np.concatenate([self._samples[one][place], table], axis=1)
                    self._samples[one][place] = kept[:, -_SAMPLES_PER_NODE:]
            self._fit(one)

    def judge(self, group: int, predicted_min: float, interval: tuple[float, float], actual: float) -> None:
        """Take in whether P10 and P90 held, in any unit. It takes effect with the next errors learned."""
        above, share = _between(np.log1p(np.array([max(predicted_min, 0.0)])))
        near = np.zeros(len(NODES_MIN))
        near[above[0] - 1], near[above[0]] = 1 - share[0], share[0]
        self._reach.learn(group, near, *interval, actual)

    def _fit(self, group: int) -> None:
        grid = self._grid[group]
        weights = np.empty(len(NODES_MIN))
        for place, samples in enumerate(self._samples[group]):
            count = float(samples[2].sum())
            # The prior's scores stand among those seen as so many samples of usual weight: its far ends stay
            # until there are enough to tell how far errors really go.
            weight = samples[1].sum() / count if count else 1.0
            made_up = np.full(len(LEVELS), weight * _PRIOR_SAMPLES / len(LEVELS))
            scores = _quantiles(
                np.concatenate([samples[0], _PRIOR[group, place]]), np.concatenate([samples[1], made_up])
            )
            grid[place] = self._reach.stretched(group, place, scores, float(quantile(scores[None], 0.5)[0]))
            weights[place] = count + _PRIOR_SAMPLES
        lift = _STEEPEST * _NODE_LOGS[:, None]
        grid[:] = _rising(grid + lift, weights) - lift

    def minutes(self, group: Ints, predicted_min: Floats) -> NDArray[np.float64]:
        """The actual minutes at each of LEVELS, ascending: an n × 40 table."""
        logs = np.log1p(np.maximum(predicted_min, 0))
        above, share = _between(logs)
        share = share[:, None]
        scores = (1 - share) * self._grid[group, above - 1] + share * self._grid[group, above]
        return np.asarray(np.maximum(np.exp(logs[:, None] + scores) - 1, 0.0))

    def dump(self) -> list[list[list[list[float]]]]:
        """The samples, for the store."""
        return [[np.round(samples, 4).tolist() for samples in group] for group in self._samples]

    def dump_reach(self) -> list[list[list[float]]]:
        """How far intervals reach, for the store."""
        return self._reach.dump()

    @classmethod
    def restore(cls, dumped: Any, reach: Any) -> "Spread":
        """What `dump` and `dump_reach` gave."""
        spread = cls()
        spread._reach = Reach.restore(GROUPS, len(NODES_MIN), reach)
        for one, group in enumerate(dumped[:GROUPS]):
            for place, samples in enumerate(group[: len(NODES_MIN)]):
                spread._samples[one][place] = np.asarray(samples, dtype=np.float64).reshape(3, -1)
            spread._fit(one)
        return spread


def _between(logs: Floats) -> tuple[Ints, Floats]:
    """The node above each place, 1 and up, and how far towards it the place lies, 0 to 1."""
    above = np.clip(np.searchsorted(_NODE_LOGS, logs), 1, len(NODES_MIN) - 1)
    low, high = _NODE_LOGS[above - 1], _NODE_LOGS[above]
    return above, np.clip((logs - low) / (high - low), 0, 1)


def _rising(values: NDArray[np.float64], weights: Floats) -> NDArray[np.float64]:
    """The nearest values (n × k) that never fall down a column: isotonic regression by its max-min formula
    (Barlow et al. 1972), so that a place of much evidence gives way little to one of hardly any.
    """
    reach = np.concatenate([[0.0], np.cumsum(weights)])[:, None]
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * weights[:, None], axis=0)])
    # Means from `first` to each place at or behind it.
    highest = np.full_like(values, -np.inf)
    for first in range(len(values)):
        means = (sums[first + 1 :] - sums[first]) / (reach[first + 1 :] - reach[first])
        lowest = np.minimum.accumulate(means[::-1])[::-1]
        highest[first:] = np.maximum(highest[first:], lowest)
    return highest


def _quantiles(scores: Floats, weight: Floats) -> Floats:
    """Scores at LEVELS; each score reaches over as much of the levels as its weight."""
    by_score = np.argsort(scores)
    reach = np.cumsum(weight[by_score])
    middles = (reach - weight[by_score] / 2) / reach[-1]
    return np.interp(LEVELS, middles, scores[by_score])


def quantile(table: NDArray[np.float64], level: float) -> Floats:
    """Minutes at one level of each row."""
    at = level * len(LEVELS) - 0.5
    low = int(np.clip(np.floor(at), 0, len(LEVELS) - 2))
    share = at - low
    return np.asarray((1 - share) * table[:, low] + share * table[:, low + 1])


def chance_by(table: NDArray[np.float64], minutes: Floats) -> Floats:
    """Chance, 0 to 1, that each row's actual minutes are at most `minutes`; linear between the levels."""
    below = (table <= minutes[:, None]).sum(axis=1)
    low = np.clip(below - 1, 0, len(LEVELS) - 2)
    rows = np.arange(len(table))
    left, right = table[rows, low], table[rows, low + 1]
    width = np.maximum(right - left, 1e-9)
    inside = LEVELS[low] + np.clip((minutes - left) / width, 0, 1) / len(LEVELS)
    chance = np.where(below == 0, LEVELS[0] * np.clip(minutes / np.maximum(table[:, 0], 1e-9), 0, 1), inside)
    beyond = minutes > table[:, -1]
    return np.asarray(np.where(beyond, np.minimum(1.0, LEVELS[-1] + LEVELS[0] / 2), chance))
