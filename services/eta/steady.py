"""Predictions that hold still until the evidence moves."""

from typing import Final

from services.eta.couriers import NEVER

# A change within the larger of these is noise of positions and paces, not news.
_BAND_MIN: Final = 0.5
_BAND_SHARE: Final = 0.05
_US_PER_MIN: Final = 60e6


def held(previous_us: int, as_of_us: int, minutes: float) -> float:
    """Minutes to show when the estimate says `minutes` and the time shown last was `previous_us` (NEVER:
    none).

    The shown time stays as long as it is within a band around the estimate; else it follows to the band's
    edge, so it is never further off the estimate than that and never in the past.
    """
    if previous_us == NEVER:
        return minutes
    before = (previous_us - as_of_us) / _US_PER_MIN
    band = max(_BAND_MIN, _BAND_SHARE * minutes)
    return max(min(max(before, minutes - band), minutes + band), 0.0)
