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


def causes_of(about: Iterable[tuple[str, Record]]) -> dict[str, str]:
    """The cause of each of several things, where all records about a thing have the same; else empty."""
    found: dict[str, str] = {}
    for thing, record in about:
        cause = cause_of(record)
        if found.setdefault(thing, cause) != cause:
            found[thing] = ""
    return found
