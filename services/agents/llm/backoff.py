"""How long to wait before the same model is asked again."""

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

# Full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015): the n-th wait, n from 0, is
# anywhere in 0..base × 2ⁿ.
BASE_S: Final = 0.5
CAP_S: Final = 8.0
# Those who were told the same time do not come back in the same instant.
_SPREAD: Final = 0.1


def wait_s(tries: int, retry_after_s: float | None, random: float) -> float:
    """Seconds before the next try after `tries` failed ones; `random` lies in 0..1."""
    if retry_after_s:
        return retry_after_s * (1 + _SPREAD * random)
    return float(min(CAP_S, BASE_S * 2 ** (tries - 1)) * random)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """What the server asks for: `retry-after-ms`, or `Retry-After` in seconds or as a date (RFC 9110 10.2.3).

    `now` is the time of day in seconds of the epoch. None if it says nothing that can be understood.
    """
    for name, per_second in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / per_second
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        at = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
