"""The parser of requests, and heads that it is given otherwise than they came."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import httptools

# Any token is a method (RFC 9110, 9.1).
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}) [\x21-\x7e]+ HTTP/1\.[01]\r\n")


def parser(protocol: object) -> httptools.HttpRequestParser:
    """As uvicorn makes it: what follows the last request of a connection is not looked at."""
    made = httptools.HttpRequestParser(protocol)
    made.set_dangerous_leniencies(lenient_data_after_close=True)
    return made


def without_wish(
    parsed: httptools.HttpRequestParser, url: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """The head that was just parsed, without its wish for another protocol.

    Clients that would rather speak HTTP/2 send such a wish with every first request (Java's do); a server may
    pass over it (RFC 9110, 7.8), but the parser takes the body for that protocol.
    """
    line = b"%s %s HTTP/%s" % (parsed.get_method(), url, parsed.get_http_version().encode())
    kept = (b"%s: %s" % header for header in headers if header[0] != b"upgrade")
    return b"\r\n".join([line, *kept, b"", b""])


def of_unknown_method(data: bytes) -> tuple[str, bytes] | None:
    """A method that the parser knows nothing of, and its request under another; None if it is no request."""
    line = _REQUEST_LINE.match(data)
    if line is None or _is_known(line[1]):
        return None
    return line[1].decode("ascii"), b"PUT" + data[line.end(1) :]


@lru_cache(maxsize=256)
def _is_known(method: bytes) -> bool:
    """Whether the parser takes the method: it has a list, parts of which are for RTSP alone."""
    try:
        parser(object()).feed_data(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
    except httptools.HttpParserError:
        return False
    return True
