"""How far predictions were off, and what that says about the next one.

Errors are kept as ln((actual + 1) / (predicted + 1)), minutes, near nodes of the predicted minutes: a
quantile of what was seen there, drawn towards a prior while little was seen. This is split conformal
prediction with a normalised score (Papadopoulos et al. 2002), one calibration set per node.
"""

from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.eta.fixes import Ints
from services.eta.geo import Floats

BEFORE_PICKUP: Final = 0
AFTER_PICKUP: Final = 1
GROUPS: Final = 2

NODES_MIN: Final = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
_NODE_LOGS: Final = np.log1p(NODES_MIN)
LEVELS: Final = (np.arange(40) + 0.5) / 40
_SAMPLES_PER_NODE: Final = 800
# Samples that the prior counts as. Its shape: a third more or less in two of three cases, as is usual for
# deliveries with street distances unknown; ln-normal quantiles at LEVELS, standard deviation 0.4.
_PRIOR_SAMPLES: Final = 10.0
_PRIOR_SIGMA: Final = 0.4
# Along the nodes a quantile's minutes must not fall as predicted minutes rise.
_STEEPEST: Final = 0.95


_PRIOR: Final = np.array([NormalDist(0, _PRIOR_SIGMA).inv_cdf(level) for level in LEVELS.tolist()])


class Spread:
    """Distribution of the actual minutes given the predicted ones."""

    def __init__(self) -> None:
        # For each group and node a 3 × k table: scores, their weights, and how much of a sample each is here.
        self._samples = [[np.empty((3, 0)) for _ in NODES_MIN] for _ in range(GROUPS)]
        self._grid: NDArray[np.float64] = np.tile(_PRIOR, (GROUPS, len(NODES_MIN), 1))

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

    def _fit(self, group: int) -> None:
        grid = self._grid[group]
        for place, samples in enumerate(self._samples[group]):
            count = float(samples[2].sum())
            share = count / (count + _PRIOR_SAMPLES)
            seen = _quantiles(samples[0], samples[1]) if samples.shape[1] else 0.0
            grid[place] = share * seen + (1 - share) * _PRIOR
        for place in range(1, len(NODES_MIN)):
            step = _NODE_LOGS[place] - _NODE_LOGS[place - 1]
            grid[place] = np.maximum(grid[place], grid[place - 1] - _STEEPEST * step)

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

    @classmethod
    def restore(cls, dumped: Any) -> "Spread":
        """What `dump` gave."""
        spread = cls()
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
