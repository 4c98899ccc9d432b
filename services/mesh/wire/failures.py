"""How calls end other than well, in grpc's own form, so that whoever calls need not know who made the call.

Codes for HTTP/2 error codes, HTTP statuses and lost connections are those of gRPC's own documents:
doc/PROTOCOL-HTTP2.md, doc/http-grpc-status-mapping.md and doc/statuscodes.md of grpc/grpc.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

import grpc
from grpc.aio import AioRpcError, Metadata

from services.mesh.wire import frames

_OF_RESET: Final = {
    frames.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    frames.CANCEL: grpc.StatusCode.CANCELLED,
    frames.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    12: grpc.StatusCode.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}
_OF_HTTP: Final = {
    b"400": grpc.StatusCode.INTERNAL,
    b"401": grpc.StatusCode.UNAUTHENTICATED,
    b"403": grpc.StatusCode.PERMISSION_DENIED,
    b"404": grpc.StatusCode.UNIMPLEMENTED,
    b"429": grpc.StatusCode.UNAVAILABLE,
    b"502": grpc.StatusCode.UNAVAILABLE,
    b"503": grpc.StatusCode.UNAVAILABLE,
    b"504": grpc.StatusCode.UNAVAILABLE,
}
_OF_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}
_NO_METADATA: Final = frozenset({"grpc-status", "grpc-message", "content-type"})


class UnprocessedError(Exception):
    """No handler has seen the call, so it can be made again elsewhere.

    `refused`: the peer has looked at it and does not want it; otherwise the peer was on its way out.
    """

    def __init__(self, why: str, *, refused: bool) -> None:
        super().__init__(why)
        self.refused = refused


def failure(
    code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str | bytes], ...] = ()
) -> AioRpcError:
    """What grpc.aio would raise."""
    return AioRpcError(code, Metadata(), Metadata(*trailing), details)


def lost(why: str) -> AioRpcError:
    """The connection has gone, and nobody knows how far the call had come."""
    return failure(grpc.StatusCode.UNAVAILABLE, why)


def late() -> AioRpcError:
    """The time granted has passed."""
    return failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def closed() -> AioRpcError:
    """The channel was closed by its owner."""
    return failure(grpc.StatusCode.CANCELLED, "the channel is closed")


def too_large(way: str, size: int, limit: int) -> AioRpcError:
    """In the words of gRPC's core: `way` is Sent or Received."""
    return failure(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{way} message larger than max ({size} vs. {limit})")


def too_much_metadata() -> AioRpcError:
    """An answer whose headers or trailers are more than was asked for."""
    return failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "received metadata is larger than max")


def reset(code: int) -> AioRpcError:
    """The peer has ended the stream without a status."""
    return failure(
        _OF_RESET.get(code, grpc.StatusCode.INTERNAL), f"the stream was reset with HTTP/2 error {code}"
    )


def broken(what: str) -> AioRpcError:
    """The answer is none that gRPC allows."""
    return failure(grpc.StatusCode.INTERNAL, what)


def not_grpc(head: Mapping[str, bytes]) -> AioRpcError:
    """Whoever answered does not speak gRPC."""
    status = head.get(":status", b"")
    code = _OF_HTTP.get(status, grpc.StatusCode.UNKNOWN)
    return failure(code, f"the answer is HTTP {status.decode('latin-1')} without a gRPC status")


def of_trailers(trailers: Mapping[str, bytes]) -> AioRpcError:
    """The status in the trailers, which is not OK."""
    number = trailers.get("grpc-status", b"")
    value = int(number) if number.isdigit() and len(number) < 4 else -1
    code = _OF_NUMBER.get(value, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.OK:
        code = grpc.StatusCode.UNKNOWN
    # What is no escape stands for itself: a message is never lost for how it is written.
    details = unquote_to_bytes(trailers.get("grpc-message", b"")).decode("utf-8", "replace")
    return failure(code, details, tuple(_metadata(trailers)))


def _metadata(trailers: Mapping[str, bytes]) -> Iterator[tuple[str, str | bytes]]:
    for key, raw in trailers.items():
        if key[:1] == ":" or key in _NO_METADATA:
            continue
        if key.endswith("-bin"):
            for each in raw.split(b","):
                yield key, binary(each.strip())
        else:
            yield key, raw.decode("latin-1")


def binary(raw: bytes) -> bytes:
    """A `-bin` value: base64, with or without padding; what is no base64 is nothing."""
    bare = raw.rstrip(b"=")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        return b""


def to_base64(value: bytes) -> bytes:
    """The same the other way; gRPC leaves the padding out."""
    return base64.b64encode(value).rstrip(b"=")
