"""Where a reader stands in a partition, and whether that is a place in the log that is there now.

A topic that is deleted and made again, or another cluster behind the same store, has the same offsets for
other events: who goes on at his own would pass over what lies before it.
"""

from dataclasses import dataclass
from typing import Self

from services.mesh.events.bus import Record
from services.mesh.events.inbox import event_digest


@dataclass(frozen=True, slots=True)
class Mark:
    """A place behind a record."""

    next: int
    """Offset of what comes next."""
    last: bytes | None = None
    """Digest of the record before that; None if it is not known."""

    @classmethod
    def behind(cls, record: Record) -> Self:
        """The place behind a record."""
        return cls(record.position + 1, event_digest(record))

    @classmethod
    def stored(cls, following: int, proof: bytes | None) -> Self:
        """The place that a store holds, with its proof. One of another place proves nothing: a process that
        keeps none has moved on since.
        """
        if proof is None or not proof.endswith(_bytes(following)):
            return cls(following)
        return cls(following, proof.removesuffix(_bytes(following)))

    @property
    def proof(self) -> bytes | None:
        """What to store beside `next`."""
        return None if self.last is None else self.last + _bytes(self.next)

    @property
    def back(self) -> int:
        """Offset to read from to see whether the log is still the same one."""
        return self.next if self.last is None else self.next - 1

    def fits(self, first: Record) -> bool:
        """Whether the mark is of a log, given the first record there is from `back` on.

        A log that ends before is read from its start; in one that has been compacted there may be others.
        """
        if first.position < self.back:
            return False
        return first.position >= self.next or event_digest(first) == self.last


def _bytes(offset: int) -> bytes:
    return offset.to_bytes(8, "big")
