"""One method of a target, called as grpc.aio's callables are."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

from services.mesh import principal
from services.mesh.wire import failures, frames, headers
from services.mesh.wire.connection import Connection
from services.mesh.wire.failures import UnprocessedError
from services.mesh.wire.stream import Stream

Request = TypeVar("Request")
Response = TypeVar("Response")
Metadata = Iterable[tuple[str, str | bytes]]
Begin = Callable[[Connection], Stream]

# How often a call that peers on their way out have not looked at is made.
_AGAIN: Final = 5
_MOST_TIMEOUT: Final = 99_999_999  # eight digits, in the finest unit that holds the time

_HEAD_END: Final = b"".join(
    headers.name(key) + headers.text(value)
    for key, value in (
        ("te", b"trailers"),
        ("content-type", b"application/grpc"),
        ("user-agent", b"waymesh-wire"),
    )
)
_TIMEOUT: Final = headers.name("grpc-timeout")
_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_KNOWN_NAMES: Final = 256
_names: dict[str, bytes] = {}
# Of what is the same for very many calls, the whole header is kept.
_STEADY: Final = frozenset(
    {principal.TENANT_KEY, principal.API_KEY_KEY, principal.CALLER_KEY, principal.SCOPES_KEY}
)
_KNOWN_PAIRS: Final = 4096
_known: dict[tuple[str, str | bytes], bytes] = {}


class Unary(Generic[Request, Response]):
    """Raises AioRpcError; cancelling the caller cancels the call.

    `pick` gives a connection with room, if there is one; `turn` begins a call once there is.
    """

    __slots__ = ("_head", "_max_message", "_parse", "_pick", "_serialize", "_turn")

    def __init__(
        self,
        pick: Callable[[], Connection | None],
        turn: Callable[[Begin, float | None], Awaitable[Stream]],
        head: bytes,
        serializer: Callable[[Request], bytes],
        deserializer: Callable[[bytes], Response],
        max_message: int,
    ) -> None:
        self._pick = pick
        self._turn = turn
        self._head = head + _HEAD_END
        self._serialize = serializer
        self._parse = deserializer
        self._max_message = max_message

    async def __call__(
        self, request: Request, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Response:
        message = self._serialize(request)
        if len(message) > self._max_message:
            raise failures.too_large("Sent", len(message), self._max_message)
        head = [self._head, b""]
        for pair in metadata or ():
            known = _known.get(pair)
            if known is None:
                head += header(*pair)
            else:
                head.append(known)
        until = None
        if timeout is not None:
            if timeout <= 0:
                raise failures.late()
            until = time.monotonic() + timeout
        connection = self._pick()
        try:
            if connection is None:
                answer = await self._in_turn(head, message, until, refused=False)
            else:
                answer = await _end(_begin(connection, head, message, until, timeout), timeout)
        except UnprocessedError as error:
            answer = await self._in_turn(head, message, until, refused=error.refused)
        try:
            return self._parse(answer)
        except Exception as error:
            raise failures.broken("a response that cannot be read") from error

    async def _in_turn(
        self, head: list[bytes], message: bytes, until: float | None, *, refused: bool
    ) -> bytes:
        """The call when no connection has room, or a peer has not looked at it.

        A call that a peer has looked at and `refused` is made again once (gRFC A6): it may have enough
        without us.
        """

        def begin(connection: Connection) -> Stream:
            return _begin(connection, head, message, until, _left_s(until))

        why = ""
        for _ in range(_AGAIN):
            left_s = _left_s(until)
            if left_s is not None and left_s <= 0:
                raise failures.late()
            try:
                return await _end(await self._turn(begin, left_s), _left_s(until))
            except UnprocessedError as error:
                if error.refused and refused:
                    raise failures.reset(frames.REFUSED_STREAM) from None
                refused = refused or error.refused
                why = str(error)
        raise failures.lost(f"no peer has looked at the call: {why}")


def _left_s(until: float | None) -> float | None:
    return None if until is None else until - time.monotonic()


def _begin(
    connection: Connection, head: list[bytes], message: bytes, until: float | None, left_s: float | None
) -> Stream:
    if left_s is not None:
        head[1] = _TIMEOUT + headers.text(timeout_text(left_s))
    stream = connection.begin(b"".join(head), message)
    stream.until = until
    return stream


async def _end(stream: Stream, left_s: float | None) -> bytes:
    """What a call that has begun comes to."""
    timer = None
    if left_s is not None:
        timer = asyncio.get_running_loop().call_later(left_s, stream.late)
    try:
        return await stream.done
    except asyncio.CancelledError:
        stream.cancel()
        raise
    finally:
        if timer is not None:
            timer.cancel()
        del stream  # the error in it holds this frame: a cycle for each call that fails


def timeout_text(seconds: float) -> bytes:
    """As `grpc-timeout` has it: rounded down, since budgets must not grow on the way, but not to nothing."""
    value = int(seconds * 1_000_000)
    if value <= _MOST_TIMEOUT:
        return b"%du" % (value if value > 0 else 1)
    if value <= _MOST_TIMEOUT * 1_000:
        return b"%dm" % (value // 1_000)
    return b"%dS" % min(_MOST_TIMEOUT, value // 1_000_000)


def header(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    """One header of a call. Raises AioRpcError for what HTTP cannot carry."""
    name = _names.get(key)
    if name is None:
        name = _name(key)
    if key[-4:] == "-bin":
        return name, headers.text(failures.to_base64(value.encode() if isinstance(value, str) else value))
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not value.isascii() or not value.isprintable():
        raise failures.broken(f"{key} is no text that can be sent")
    text = headers.text(value.encode("ascii"))
    if key in _STEADY and len(_known) < _KNOWN_PAIRS:
        _known[key, value] = name + text
    return name, text


def _name(key: str) -> bytes:
    if _KEY.fullmatch(key) is None:
        raise failures.broken(f"{key!r} is no name of metadata")
    name = headers.name(key)
    if len(_names) < _KNOWN_NAMES:
        _names[key] = name
    return name
