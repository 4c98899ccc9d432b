"""Couriers on an order of whom nothing has been heard, told from live streams only."""

from dataclasses import dataclass
from typing import Final

from services.eta.tracks import Track

SILENT_AFTER_US: Final = 5 * 60 * 1_000_000
# A stream is live when its fixes are about as old as the clock says; a recording that is played back is not.
_LIVE_WITHIN_US: Final = 2 * 60 * 1_000_000


@dataclass(slots=True)
class _Heard:
    at_us: int
    order_id: str
    reported: bool = False


class Silence:
    """Who was heard when. Times are µs since 1970."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}

    def heard(self, track: Track, now_us: int) -> bool:
        """A fix of an order came. True if its courier had been reported silent, which is over now."""
        before = self._heard.pop(track.driver_id, None)
        if not track.over and abs(now_us - track.last_us) <= _LIVE_WITHIN_US:
            self._heard[track.driver_id] = _Heard(now_us, track.order_id)
        return before is not None and before.reported

    def due(self, now_us: int) -> list[tuple[str, str]]:
        """Courier and order of those silent for too long, each once."""
        found = []
        for driver_id, heard in self._heard.items():
            if now_us - heard.at_us < SILENT_AFTER_US:
                # Couriers are kept in the order in which they were heard.
                break
            if not heard.reported:
                heard.reported = True
                found.append((driver_id, heard.order_id))
        return found
