"""Headers of HTTP/2 as bytes (RFC 7541) without a dynamic table, which makes each block mean the same always.

We write literals, which costs nothing, and announce a table of size 0 for what we read, so a peer cannot
refer to earlier headers and equal blocks need be decoded only once.
"""

from collections.abc import Mapping
from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError

# Of all headers of one block together, as HTTP/2 counts them.
MAX_BYTES: Final = 64 << 10
# Begins the first block of a connection: we use no table, however small the peer wants it. Peers that want a
# smaller one than usual have to be told (4.2), and take the next block for broken if they are not.
NO_TABLE: Final = b"\x20"
_POST: Final = b"\x83"
_HTTP: Final = b"\x86"
_PATH: Final = b"\x04"
_AUTHORITY: Final = b"\x01"
# Blocks repeat: nearly all answers are OK. Those that never do, with a date say, must not keep these out.
_KNOWN_BLOCKS: Final = 256
_KNOWN_BYTES: Final = 128
# hpack's own words hold the block.
_TOLD_CHARS: Final = 100
_known: dict[bytes, Mapping[str, bytes]] = {}


class TooLargeError(Exception):
    """More headers than were asked for."""


def integer(value: int, prefix: int) -> bytes:
    """A number whose first byte has `prefix` bits for it, the others 0 (5.1)."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((value,))
    out = bytearray((most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: bytes) -> bytes:
    """A text as it is, without Huffman code."""
    return integer(len(value), 7) + value


def name(key: str) -> bytes:
    """The start of a literal header with a name of its own; its `text` follows."""
    return b"\0" + text(key.encode("ascii"))


def request_head(path: str, authority: str) -> bytes:
    """The pseudo-headers of a call."""
    return b"".join(
        (_POST, _HTTP, _PATH, text(path.encode("ascii")), _AUTHORITY, text(authority.encode("ascii")))
    )


def decode(block: bytes) -> Mapping[str, bytes]:
    """The headers of a block; values of one name are joined by commas (RFC 9110, 5.3).

    Raises ValueError for what is no block, TooLargeError for one of more than MAX_BYTES.
    """
    found = _known.get(block)
    if found is None:
        found = _decode(block)
        if len(block) < _KNOWN_BYTES:
            if len(_known) >= _KNOWN_BLOCKS:
                _known.clear()
            _known[block] = found
    return found


def _decode(block: bytes) -> Mapping[str, bytes]:
    if len(block) > MAX_BYTES:
        raise TooLargeError
    decoder = Decoder(max_header_list_size=MAX_BYTES)
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    found: dict[str, bytes] = {}
    try:
        for key, value in decoder.decode(block, raw=True):
            known = bytes(key).decode("ascii")
            found[known] = found[known] + b"," + value if known in found else bytes(value)
    except OversizedHeaderListError:
        raise TooLargeError from None
    except HPACKError as error:
        raise ValueError(f"headers that cannot be read: {str(error)[:_TOLD_CHARS]}") from None
    return found
