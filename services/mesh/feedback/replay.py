"""The spool's records on their way to the service, oldest first."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.feedback.outcome import put_names_right
from services.mesh.feedback.spool import Leftover

# Offers events to the service: the places of those that it will never take. Raises if it is away.
Offer = Callable[[Sequence[OutcomeEvent]], Awaitable[set[int]]]
Parsed = tuple[list[tuple[int, OutcomeEvent]], list[int]]
InThread = Callable[[Callable[[], Parsed]], Awaitable[Parsed]]

# Events of one call: halved when a call fails, for a service that is slow may take fewer, and doubled again.
_EVENTS: Final = (50, 1_000)
_MAX_BYTES: Final = 2 << 20


class Replay:
    """One file of the spool, and how far it is delivered; goes on there after a failure."""

    def __init__(self, leftover: Leftover, offer: Offer, in_thread: InThread) -> None:
        self.leftover = leftover
        self.refused: list[bytes] = []
        self._offer = offer
        self._in_thread = in_thread
        self._at = 0

    async def run(self, size: "Size") -> None:
        """Delivers the rest. Raises what `offer` raises."""
        records = self.leftover.records
        while self._at < len(records):
            some = records[self._at : self._at + _fitting(records, self._at, size.events)]
            events, broken = await self._in_thread(partial(_parsed, some))
            try:
                refused = await self._offer([event for _, event in events])
            except Exception:
                size.less()
                raise
            size.more()
            lost = sorted({events[place][0] for place in refused} | set(broken))
            self.refused += [some[place] for place in lost]
            self._at += len(some)


class Size:
    """How many events a call carries."""

    def __init__(self) -> None:
        self.events = _EVENTS[1]

    def less(self) -> None:
        """A call has failed."""
        self.events = max(_EVENTS[0], self.events // 2)

    def more(self) -> None:
        """A call has succeeded."""
        self.events = min(_EVENTS[1], self.events * 2)


def _fitting(records: Sequence[bytes], at: int, most: int) -> int:
    """How many records from `at` on make one call."""
    size = count = 0
    for record in records[at : at + most]:
        size += len(record)
        if count and size > _MAX_BYTES:
            break
        count += 1
    return count


def _parsed(records: Sequence[bytes]) -> Parsed:
    """Events with their places, and the places of records that are none."""
    events: list[tuple[int, OutcomeEvent]] = []
    broken: list[int] = []
    for place, record in enumerate(records):
        try:
            event = OutcomeEvent.FromString(record)
        except DecodeError:
            broken.append(place)
            continue
        put_names_right(event)  # it may be older than the contract's rules for them
        events.append((place, event))
    return events, broken
