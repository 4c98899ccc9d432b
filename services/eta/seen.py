"""Which fixes have been processed: 16 bytes each, asked for a thousand at a time."""

import numpy as np
from numpy.typing import NDArray

from services.eta.fixes import Bools

Hashes = NDArray[np.uint64]


class SeenFixes:
    """Ids and contents of the newest fixes of one partition; at least `limit` of them, at most twice as many.

    They are kept in two generations: when the younger one is full the older one is forgotten.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self._limit = limit
        self._older = _Runs()
        self._newer = _Runs()

    def __len__(self) -> int:
        return self._older.count + self._newer.count

    def find(self, ids: Hashes) -> tuple[Bools, Hashes]:
        """Whether each id was processed, and the content it had (0 where it was not)."""
        found = np.zeros(len(ids), dtype=np.bool_)
        contents = np.zeros(len(ids), dtype=np.uint64)
        for generation in (self._older, self._newer):
            generation.find(ids, found, contents)
        return found, contents

    def add(self, ids: Hashes, contents: Hashes) -> None:
        """Remember fixes that are new and differ from each other."""
        if len(ids):
            self._newer.add(ids, contents)
        if self._newer.count >= self._limit:
            self._older, self._newer = self._newer, _Runs()


class _Runs:
    """Sorted runs that double in size: a look-up is one binary search per run, and there are few."""

    def __init__(self) -> None:
        self.count = 0
        self._runs: list[tuple[Hashes, Hashes]] = []

    def find(self, ids: Hashes, found: Bools, contents: Hashes) -> None:
        for known, known_contents in self._runs:
            at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            hit = known[at] == ids
            found |= hit
            contents[hit] = known_contents[at[hit]]

    def add(self, ids: Hashes, contents: Hashes) -> None:
        self.count += len(ids)
        by_id = np.argsort(ids)
        run = ids[by_id], contents[by_id]
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            other = self._runs.pop()
            merged = np.concatenate([other[0], run[0]])
            by_id = np.argsort(merged, kind="stable")
            run = merged[by_id], np.concatenate([other[1], run[1]])[by_id]
        self._runs.append(run)


def repeats(seen: SeenFixes, ids: Hashes, contents: Hashes) -> tuple[Bools, Bools]:
    """Masks (duplicate, conflict) of a batch against what was seen and against its own earlier fixes.

    The first fix with an id stands; later ones are duplicates if their content is the same, else conflicts.
    """
    found, first_contents = seen.find(ids)
    _, first_at, inverse = np.unique(ids, return_index=True, return_inverse=True)
    first_of = first_at[inverse]
    repeated = first_of != np.arange(len(ids))
    known = found | repeated
    expected = np.where(found, first_contents, contents[first_of])
    same = expected == contents
    return known & same, known & ~same
