"""Headers of HTTP/2 as bytes (RFC 7541) without a dynamic table, which makes each block mean the same always.

We write literals, which costs nothing, and announce a table of size 0 for what we read, so a peer cannot
refer to earlier headers and equal blocks need be decoded only once.
"""

from typing import Final

from hpack import Decoder, HPACKError

# Of all headers of one block together, as HTTP/2 counts them.
MAX_BYTES: Final = 64 << 10
_POST: Final = b"\x83"
_HTTP: Final = b"\x86"
_PATH: Final = b"\x04"
_AUTHORITY: Final = b"\x01"


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


def decode(block: bytes) -> dict[str, bytes]:
    """The headers of a block; of a name that comes twice the last one counts. Raises ValueError."""
    decoder = Decoder(max_header_list_size=MAX_BYTES)
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    try:
        return {bytes(key).decode("ascii"): bytes(value) for key, value in decoder.decode(block, raw=True)}
    except HPACKError as error:
        raise ValueError(f"headers that cannot be read: {error}") from None
