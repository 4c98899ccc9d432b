"""Latencies of calls, kept few however many there are."""

from collections import deque
from typing import Final

_KEPT: Final = 10_000


class Latencies:
    """The newest ten thousand, in seconds."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_KEPT)
        self.count = 0

    def add(self, seconds: float) -> None:
        """One more."""
        self._values.append(seconds)
        self.count += 1

    def quantile_ms(self, q: float) -> float | None:
        """The value in milliseconds that a share `q` does not exceed (nearest rank); None without any."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000
