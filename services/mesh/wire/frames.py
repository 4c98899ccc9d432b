"""Frames of HTTP/2 (RFC 9113, 4 and 6): their numbers, how they are written, and what is wrong with one."""

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Length in two parts, type, flags, stream (4.1); then, of a message, whether it is compressed and its length.
HEAD: Final = struct.Struct(">BHBBI")
HEAD_BYTES: Final = HEAD.size
MESSAGE: Final = struct.Struct(">BHBBIBI")
SETTING: Final = struct.Struct(">HI")

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH = 0, 1, 2, 3, 4, 5
PING, GOAWAY, WINDOW, CONTINUATION = 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32

# Of stream numbers, windows and window updates: the highest bit is not part of them.
MOST: Final = (1 << 31) - 1
DEFAULT_WINDOW: Final = 65_535
# Largest frame that peers may send, which is the smallest that may be asked for; and the largest there is.
MAX_FRAME: Final = 16_384
LARGEST_FRAME: Final = (1 << 24) - 1

# Error codes (7).
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
FLOW_CONTROL_ERROR: Final = 3
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11

SETTINGS_ACK: Final = HEAD.pack(0, 0, SETTINGS, ACK, 0)
_LENGTHS: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW: 4}
_OF_CONNECTION: Final = frozenset({SETTINGS, PING, GOAWAY})


class BreachError(Exception):
    """The peer does not keep to HTTP/2, which ends the connection (5.4.1)."""

    def __init__(self, why: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, number: int, payload: bytes | memoryview = b"") -> bytes:
    """A whole frame."""
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, number) + payload


def reset(number: int, code: int) -> bytes:
    """Ends a stream."""
    return frame(RST_STREAM, 0, number, code.to_bytes(4))


def window_update(number: int, more: int) -> bytes:
    """Lets the peer send more: on a stream, or on all together with number 0."""
    return frame(WINDOW, 0, number, more.to_bytes(4))


def goaway(code: int) -> bytes:
    """Ends a connection. The peer has begun no streams."""
    return frame(GOAWAY, 0, 0, bytes(4) + code.to_bytes(4))


def settings(values: tuple[tuple[int, int], ...]) -> bytes:
    """Values by their keys."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(key, value) for key, value in values))


def check(kind: int, number: int, length: int) -> None:
    """Raises BreachError for a frame of another length than its kind has, or where none of its kind goes."""
    if _LENGTHS.get(kind, length) != length:
        raise BreachError("a frame of the wrong length", FRAME_SIZE_ERROR)
    if kind != WINDOW and (number == 0) != (kind in _OF_CONNECTION):
        raise BreachError("a frame on the wrong stream")


def unpadded(data: bytes) -> bytes:
    """What is left of a frame without its padding (6.1)."""
    if not data or data[0] >= len(data):
        raise BreachError("more padding than data")
    return data[1 : len(data) - data[0]]
