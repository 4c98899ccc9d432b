"""What was acknowledged to callers, written down before anybody looks whether it is there."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OUTCOME: Final = "outcome"
DELIVERY: Final = "delivery"
ORDER: Final = "order"


@dataclass(frozen=True, slots=True)
class Entry:
    """An acknowledgement. `fault` is the number of the newest fault at that time, 0 before the first."""

    revision: int
    fault: int
    at_s: float


class Ledger:
    """Appended to a file and flushed; of an order the newest revision counts. Times are in seconds."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._began = time.monotonic()
        self._entries: dict[str, dict[str, Entry]] = {OUTCOME: {}, DELIVERY: {}, ORDER: {}}
        self._last: dict[str, float] = {}
        self.longest_s = 0.0
        """Longest time in which no load of one source was acknowledged."""
        self.fault = 0

    @property
    def now_s(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def acknowledge(self, source: str, kind: str, ids: Iterable[tuple[str, int]]) -> None:
        """These (id, revision) were acknowledged to the load named `source`."""
        now = self.now_s
        entries = self._entries[kind]
        lines = []
        for id_, revision in ids:
            known = entries.get(id_)
            if known is None or known.revision < revision:
                entries[id_] = Entry(revision, self.fault, now)
                lines.append(json.dumps([round(now, 3), self.fault, source, kind, id_, revision]) + "\n")
        if lines:
            self._file.write("".join(lines))
            self._file.flush()
        self.longest_s = max(self.longest_s, now - self._last.get(source, now))
        self._last[source] = now

    def begin(self, source: str) -> None:
        """From now on the source is expected to be acknowledged something every now and then."""
        self._last[source] = self.now_s

    def waiting(self, moment_s: float) -> list[str]:
        """Sources that have been acknowledged nothing after that second of the run."""
        return [source for source, last in self._last.items() if last <= moment_s]

    def of(self, kind: str) -> Mapping[str, Entry]:
        """Everything of a kind, by id."""
        return self._entries[kind]

    @property
    def count(self) -> int:
        """Ids that were acknowledged."""
        return sum(len(entries) for entries in self._entries.values())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
