"""How often one key may call: a token bucket."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s` requests a second in the long run, up to `burst` at once."""

    per_s: float
    burst: int


@dataclass(slots=True)
class TokenBucket:
    """Starts full; each request takes one token, `rate.per_s` come back every second."""

    rate: Rate
    clock: Callable[[], float] = time.monotonic
    tokens: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.rate.burst
        self._at = self.clock()

    def take(self) -> float:
        """0 if the request may pass, else seconds until the next one may; nothing is taken then."""
        now = self.clock()
        tokens = min(self.rate.burst, self.tokens + (now - self._at) * self.rate.per_s)
        self._at = now
        if tokens >= 1:
            self.tokens = tokens - 1
            return 0.0
        self.tokens = tokens
        return (1 - tokens) / self.rate.per_s


def retry_after(seconds: float) -> str:
    """Value of a Retry-After header: whole seconds, at least one, never too early."""
    return str(max(1, math.ceil(seconds - 1e-6)))
