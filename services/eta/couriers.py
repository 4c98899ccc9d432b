"""What is remembered of each courier between batches: a table of columns, one row per courier."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.eta.fixes import Ints

# Columns of the courier table, in the database as well. Times are µs since 1970.
COURIER: Final = np.dtype(
    [
        ("last_us", np.int64),  # newest processed fix; NEVER before the first
        ("last_lat", np.float64),
        ("last_lon", np.float64),
        ("last_odd", np.int64),  # 1 if it could not be reached from the one before
        ("prev_us", np.int64),  # the one before it in time
        ("prev_lat", np.float64),
        ("prev_lon", np.float64),
        ("usable_us", np.int64),  # newest fix that shows where the courier is
        ("usable_lat", np.float64),
        ("usable_lon", np.float64),
        ("run_m", np.float64),  # way and time of late, older ones fading
        ("run_s", np.float64),
        ("vehicle", np.int64),
        ("traffic", np.int64),
        ("stage", np.int64),
    ]
)
NEVER: Final = int(np.iinfo(np.int64).min)

_UNKNOWN: Final = np.array(
    (NEVER, np.nan, np.nan, 0, NEVER, np.nan, np.nan, NEVER, np.nan, np.nan, 0.0, 0.0, 0, 0, 0), dtype=COURIER
)


class CourierTable:
    """Couriers of one partition, found by driver_id."""

    def __init__(self) -> None:
        self._row_of: dict[str, int] = {}
        self._rows: NDArray[np.void] = np.full(64, _UNKNOWN)

    def __len__(self) -> int:
        return len(self._row_of)

    def missing(self, driver_ids: Iterable[str]) -> list[str]:
        """Those that have no row yet, each once."""
        row_of = self._row_of
        return list({driver for driver in driver_ids if driver not in row_of})

    def load(self, known: Mapping[str, Sequence[Any]], asked: Iterable[str]) -> None:
        """Give each asked courier a row: what the store knows (in the order of COURIER), or that of a
        new one.
        """
        for driver in asked:
            self._append(driver, known.get(driver))

    def rows_of(self, driver_ids: Sequence[str]) -> Ints:
        """The row of each courier; all of them must be there."""
        row_of = self._row_of
        return np.array([row_of[driver] for driver in driver_ids], dtype=np.int64)

    def get(self, rows: Ints) -> NDArray[np.void]:
        """A copy of these rows."""
        return self._rows[rows].copy()

    def set(self, rows: Ints, values: NDArray[np.void]) -> None:
        """Replace these rows."""
        self._rows[rows] = values

    def find(self, driver_id: str) -> NDArray[np.void] | None:
        """One courier's row, or None."""
        row = self._row_of.get(driver_id)
        return None if row is None else self._rows[row : row + 1]

    def _append(self, driver: str, values: Sequence[Any] | None) -> None:
        row = len(self._row_of)
        if row == len(self._rows):
            self._rows = np.concatenate([self._rows, np.full(len(self._rows), _UNKNOWN)])
        self._row_of[driver] = row
        self._rows[row] = _UNKNOWN if values is None else tuple(values)
