"""Which fixes have been processed: 16 bytes each, asked for a thousand at a time."""

import numpy as np
from numpy.typing import NDArray

from services.eta.fixes import Bools

Hashes = NDArray[np.uint64]


class SeenFixes:
    """Ids and contents of the fixes of one partition, as sorted runs that double in size.

    A look-up costs one binary search per run; runs of like size are merged, so there are few.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, Hashes]] = []

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self._runs)

    def find(self, ids: Hashes) -> tuple[Bools, Hashes]:
        """Whether each id was processed, and the content it had (0 where it was not)."""
        found = np.zeros(len(ids), dtype=np.bool_)
        contents = np.zeros(len(ids), dtype=np.uint64)
        for known, known_contents in self._runs:
            at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            hit = known[at] == ids
            found |= hit
            contents[hit] = known_contents[at[hit]]
        return found, contents

    def add(self, ids: Hashes, contents: Hashes) -> None:
        """Remember fixes that are new and differ from each other."""
        if not len(ids):
            return
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
