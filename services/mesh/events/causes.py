"""Which request an event follows from, and the one that several follow from, if it is one."""

from collections.abc import Iterable
from contextlib import AbstractContextManager

from services.mesh import request_id
from services.mesh.events.bus import Record


def cause_of(record: Record) -> str:
    """Id of the request that the record follows from; empty if it names none."""
    given = record.headers.get(request_id.KEY)
    return given if request_id.is_valid(given) else ""


def common_cause(records: Iterable[Record]) -> str:
    """Id of the request that all the records follow from; empty if they follow from several, or from none."""
    found: str | None = None
    last = None
    for record in records:
        headers = record.headers
        if headers is last:  # those of one request that were published together share them
            continue
        last = headers
        cause = cause_of(record)
        if not cause or (found is not None and cause != found):
            return ""
        found = cause
    return found or ""


def serving(records: Iterable[Record]) -> AbstractContextManager[None]:
    """What is done within serves the request that all the records follow from."""
    return request_id.serving(common_cause(records))


class Causes:
    """The cause of each of several things, where all records about a thing have the same."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def add(self, thing: str, record: Record) -> None:
        """The record is about this thing."""
        cause = cause_of(record)
        if self._of.setdefault(thing, cause) != cause:
            self._of[thing] = ""

    def of(self, thing: str) -> str:
        """Id of the request; empty if there were several, or none."""
        return self._of.get(thing, "")
