"""One HTTP request as the gateway sees it, and what is answered."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from services.gateway import faults
from services.mesh.request_id import is_valid, new_request_id

if TYPE_CHECKING:
    from services.gateway.keys import Client

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON: Final = b"application/json"
# Where a scope says whether the next piece of the body is here, so that taking it needs no limit of time.
ARRIVED: Final = "waymesh.arrived"
# Where a scope has the connection of its request.
CONNECTION: Final = "waymesh.connection"
_NOTHING_YET: Final[Mapping[str, Any]] = {"more_body": True}

# The only headers that anything here looks at.
_WANTED: Final = frozenset(
    {
        b"host",
        b"content-type",
        b"content-encoding",
        b"content-length",
        b"x-api-key",
        b"x-request-id",
        b"traceparent",
        b"tracestate",
        b"origin",
        b"access-control-request-method",
        b"accept",
        b"last-event-id",
    }
)
# Two of these are no request: whoever stands in front of us may have looked at the other one.
_ONCE: Final = (b"host", b"x-api-key", b"last-event-id")
_UTF_8: Final = re.compile(
    rb"""\s*application/json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?;?\s*""", re.IGNORECASE
)
# What a body that is not compressed may be called.
_PLAIN: Final = (b"", b"identity")


class Exchange:
    """A request under way. `service` is who answers for what goes wrong from now on."""

    __slots__ = (
        "_arrived",
        "_receive",
        "_scope",
        "began",
        "client",
        "doubtful",
        "events",
        "grpc",
        "headers",
        "method",
        "path",
        "request_id",
        "service",
        "task",
        "template",
    )

    def __init__(self, scope: Scope, receive: Receive, service: str, began: float) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        wanted = [pair for pair in scope["headers"] if pair[0] in _WANTED]
        self.headers: dict[bytes, bytes] = dict(wanted)
        # Whether `check_headers` has something to look at.
        self.doubtful = len(wanted) != len(self.headers) or b"host" not in self.headers
        self._scope = scope
        self._receive = receive
        self._arrived: Callable[[], bool] = scope[ARRIVED]
        self.began = began
        # Who holds the key that came with it, once that is known; None on a runtime.
        self.client: Client | None = None
        # Whether errors are for a client of gRPC.
        self.grpc = False
        self.service = service
        self.task = ""
        # Of the path, where it is one of many that are served in the same way.
        self.template = ""
        # How many were sent, where the answer is a stream of them.
        self.events = 0
        given = self.headers.get(b"x-request-id")
        text = "" if given is None else given.decode("latin-1")
        self.request_id = text if is_valid(text) else new_request_id()

    def text(self, name: bytes) -> str | None:
        """A header as text."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def accept(self) -> bytes:
        """What the client will take; empty if it does not say. The header may come in pieces."""
        return b",".join(value for name, value in self._scope["headers"] if name == b"accept")

    @property
    def raw_path(self) -> bytes:
        """The path as it was sent, with what is encoded in it."""
        path: bytes = self._scope["raw_path"]
        return path

    @property
    def query(self) -> bytes:
        """What follows the path's question mark, as it was sent."""
        query: bytes = self._scope["query_string"]
        return query

    @property
    def chunked(self) -> bool:
        """Whether the client knows chunks: an answer of unknown length that it can tell from a broken one."""
        return bool(self._scope["http_version"] != "1.0")

    def hang_up(self) -> None:
        """Ends the connection at once, with what is still to be sent."""
        self._scope[CONNECTION].hang_up()

    def check_headers(self) -> None:
        """Raises the fault for 400 if a header that has to be there once is there twice, or Host is not."""
        names = [name for name, _ in self._scope["headers"]]
        for name in _ONCE:
            if names.count(name) > 1:
                raise faults.header_repeated(name.decode())
        if b"host" not in self.headers and self._scope["http_version"] == "1.1":
            raise faults.host_missing()

    def require_json(self) -> None:
        """Raises the fault for 415 unless the body is declared to be JSON in UTF-8, as it stands.

        Nothing is unpacked: who sends little would decide how much that comes to.
        """
        declared = self.headers.get(b"content-type", b"")
        if declared != JSON and _UTF_8.fullmatch(declared) is None:
            raise faults.unsupported_media_type(declared.decode("latin-1"))
        coding = self.headers.get(b"content-encoding")
        if coding is not None and coding.strip().lower() not in _PLAIN:
            raise faults.unsupported_coding(coding.decode("latin-1"))

    async def body(self, limit_bytes: int, until: float) -> bytes:
        """The body.

        Raises the fault for 413 as soon as it is known to be too large, and DeadlineExceeded if it has not
        arrived by `until` (monotonic).
        """
        declared = self.headers.get(b"content-length")
        if declared is not None and int(declared) > limit_bytes:
            raise faults.body_too_large(limit_bytes)
        if not self._arrived():
            return await self._rest(bytearray(), _NOTHING_YET, limit_bytes, until)
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False) and len(body) <= limit_bytes:
            return body  # nearly always: one piece, here already
        return await self._rest(bytearray(body), message, limit_bytes, until)

    async def _rest(
        self, body: bytearray, message: Mapping[str, Any], limit_bytes: int, until: float
    ) -> bytes:
        try:
            async with asyncio.timeout_at(until):
                while message.get("more_body", False) and len(body) <= limit_bytes:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise asyncio.CancelledError
                    body += message.get("body", b"")
        except TimeoutError:
            raise faults.body_late((until - self.began) * 1000) from None
        if len(body) > limit_bytes:
            raise faults.body_too_large(limit_bytes)
        return bytes(body)


class Pieces(Protocol):
    """A body that comes bit by bit."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Nobody wants the rest."""


@dataclass(slots=True)
class Answer:
    """Status, body, and the headers that are not the same for every answer.

    With `pieces` the body is what these are, each sent at once, all of them `until` then (monotonic).
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = field(default_factory=list)
    pieces: Pieces | None = None
    until: float = 0.0


Handler = Callable[[Exchange], Awaitable[Answer]]
