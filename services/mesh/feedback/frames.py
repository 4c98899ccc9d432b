"""Records as they lie in a file: each can be found again, whatever has happened to those before it.

A frame is a mark (4 bytes that no UTF-8 text holds), the record's length and the CRC-32 of length and record
(4 bytes each, big-endian), and the record. Where the check fails, reading goes on at the next mark.
"""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

MARK: Final = b"\xf5\xffW\xfe"
_LENGTH: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">4sII")
# Bytes that a record takes besides its own.
OVERHEAD: Final = _HEAD.size


@dataclass(slots=True)
class Reading:
    """What a file holds: its records in order, and how many stretches of bytes are none."""

    records: list[bytes] = field(default_factory=list)
    damaged: int = 0


def frame(record: bytes) -> bytes:
    """A record as it lies in the file."""
    return _HEAD.pack(MARK, len(record), _check(record)) + record


def read(data: bytes) -> Reading:
    """Every record that is whole. One that a crash has torn off the end is a damaged stretch like others."""
    found = Reading()
    at, whole = 0, True
    while at < len(data):
        record = _record(data, at)
        if record is not None:
            found.records.append(record)
            at += OVERHEAD + len(record)
            whole = True
            continue
        if whole:
            found.damaged += 1
            whole = False
        at = data.find(MARK, at + 1)
        if at < 0:
            break
    return found


def _record(data: bytes, at: int) -> bytes | None:
    if at + OVERHEAD > len(data):
        return None
    mark, length, check = _HEAD.unpack_from(data, at)
    if mark != MARK or at + OVERHEAD + length > len(data):
        return None
    record = data[at + OVERHEAD : at + OVERHEAD + length]
    return record if _check(record) == check else None


def _check(record: bytes) -> int:
    return zlib.crc32(record, zlib.crc32(_LENGTH.pack(len(record))))
