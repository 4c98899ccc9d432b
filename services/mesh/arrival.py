"""Whether a source's clock runs ahead: an event's own time against the time at which the mesh took it in.

Both are stored with the event, so whoever reads it again comes to the same answer. Old recordings are never
ahead.
"""

from datetime import datetime
from typing import Final

# What clocks may differ by, the way through the mesh included.
MAX_AHEAD_US: Final = 2 * 60 * 1_000_000
# Arrival of what nobody knows the arrival of: nothing is ahead of it. The largest int64.
UNKNOWN_US: Final = 2**63 - 1


def arrived_us(taken_in: datetime) -> int:
    """µs since 1970 from a record's time. A producer that set none wrote a time before 1970."""
    at_us = round(taken_in.timestamp() * 1e6)
    return at_us if at_us > 0 else UNKNOWN_US


def latest_us(arrived: int) -> int:
    """The latest time that an event may bear that came then, µs since 1970."""
    return min(arrived, UNKNOWN_US - MAX_AHEAD_US) + MAX_AHEAD_US
