"""One HTTP/2 connection to a gRPC server (RFC 9113): unary calls as streams, with flow control both ways.

Everything happens in the event loop's thread, where grpc.aio goes through a poller and core's own threads
and wakes the loop again for each step of a call.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Final, cast

from services.mesh.wire import failures, headers

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Length in two parts, type, flags, stream (4.1); then, of a message, whether it is compressed and its length.
_FRAME: Final = struct.Struct(">BHBBI")
_MESSAGE: Final = struct.Struct(">BHBBIBI")
_SETTING: Final = struct.Struct(">HI")
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH = 0, 1, 3, 4, 5
_PING, _GOAWAY, _WINDOW, _CONTINUATION = 6, 7, 8, 9
_ACK = _END_STREAM = 1
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32
_SETTINGS_ACK: Final = _FRAME.pack(0, 0, _SETTINGS, _ACK, 0)

_DEFAULT_WINDOW: Final = 65_535
_MOST_WINDOW: Final = (1 << 31) - 1
# Largest frame that peers may send, which is the smallest that may be asked for.
_MAX_FRAME: Final = 16_384
# Bytes of all responses together that the peer may send before it is told that they were read.
_WINDOW_BYTES: Final = 16 << 20
# Header blocks repeat: nearly all answers are OK.
_KNOWN_BLOCKS: Final = 256
_known: dict[bytes, dict[str, bytes]] = {}
# Streams are numbered by 31 bits; a connection that comes near the end is left.
_LAST_STREAM: Final = (1 << 31) - 1024

# As gRPC's core does (transport.py has the same for grpc.aio), in seconds.
_PING_AFTER_S: Final = 20.0
_PONG_WITHIN_S: Final = 10.0


class Stream:
    """One call under way; `done` gets the response's bytes or an AioRpcError."""

    __slots__ = ("body", "connection", "done", "headed", "number", "rest", "window")

    def __init__(self, connection: "Connection", number: int, done: "asyncio.Future[bytes]") -> None:
        self.connection = connection
        self.number = number
        self.done = done
        self.headed = False
        # What has come of the response, the message's prefix included.
        self.body: bytes | bytearray = b""
        # What is still to be sent, and how much of it the peer takes now.
        self.rest: memoryview | None = None
        self.window = 0

    def fail(self, error: BaseException) -> None:
        """Ends the call on our side alone."""
        if not self.done.done():
            self.done.set_exception(error)

    def cancel(self) -> None:
        """Tells the peer that nobody waits any more."""
        self.connection.reset(self)

    def late(self) -> None:
        """The time granted has passed."""
        self.connection.reset(self)
        self.fail(failures.late())


class Connection(asyncio.Protocol):
    """`on_ready` once the peer speaks HTTP/2, `on_lost` when no new call may begin here any more."""

    def __init__(
        self,
        max_message_bytes: int,
        on_ready: Callable[["Connection"], None],
        on_lost: Callable[["Connection", str], None],
    ) -> None:
        self._max_message = max_message_bytes
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._write: Callable[[bytes], None]
        self._streams: dict[int, Stream] = {}
        self._sending: dict[int, Stream] = {}
        self._next = 1
        self._slots: list[asyncio.Future[None]] = []
        self._window = self._initial_window = _DEFAULT_WINDOW
        self._max_frame = _MAX_FRAME
        self._max_streams = _MOST_WINDOW
        self._partial = b""
        self._block: tuple[int, int, bytearray] | None = None
        self._unread = 0
        self._settled = False
        self._leaving = False
        self._heard = False
        self._look: asyncio.TimerHandle | None = None
        self._why = "the connection was lost"

    # --- asyncio ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's
        self._write = transport.write
        window = min(_MOST_WINDOW, self._max_message + _MAX_FRAME)
        settings = b"".join(
            _SETTING.pack(key, value)
            # No table for headers, no pushes, a whole response at once, and so much of headers.
            for key, value in ((1, 0), (2, 0), (4, window), (6, headers.MAX_BYTES))
        )
        transport.write(
            _PREFACE
            + _FRAME.pack(0, len(settings), _SETTINGS, 0, 0)
            + settings
            + _window_update(_WINDOW_BYTES - _DEFAULT_WINDOW)
        )
        self._look = self._loop.call_later(_PING_AFTER_S, self._listen)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        self._leave(str(exc) if exc is not None else self._why)
        error = f"{self._why}: {exc}" if exc is not None else self._why
        streams, self._streams = self._streams, {}
        self._sending.clear()
        for stream in streams.values():
            stream.fail(failures.lost(error))

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._partial:
            data = self._partial + data
        at, size = 0, len(data)
        try:
            while size - at >= 9:
                high, low, kind, flags, number = _FRAME.unpack_from(data, at)
                length = high << 16 | low
                if length > _MAX_FRAME:
                    raise ValueError("a frame is too large")
                start = at + 9
                at = start + length
                if at > size:
                    at = start - 9
                    break
                if self._block is not None and kind != _CONTINUATION:
                    raise ValueError("headers that do not end")
                if kind == _DATA:
                    self._on_data(number, flags, data[start:at])
                elif kind == _HEADERS:
                    self._on_headers(number, flags, data[start:at])
                elif kind <= _CONTINUATION:
                    self._on_other(kind, number, flags, data[start:at])
        except (ValueError, IndexError, struct.error) as error:
            self._break(failures.PROTOCOL_ERROR, str(error))
            return
        self._partial = data[at:] if at < size else b""

    # --- calls ------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether calls may begin here."""
        return self._settled and not self._leaving

    def begin(self, head: bytes, message: bytes) -> Stream:
        """Sends a request, as far as the peer takes it now. Only while `usable` and not `full`."""
        number = self._next
        self._next = number + 2
        stream = self._streams[number] = Stream(self, number, self._loop.create_future())
        length, size = len(head), len(message) + 5
        if size <= self._window and size <= self._initial_window and size <= self._max_frame >= length:
            self._window -= size
            if not self._sending:
                self._write(
                    b"".join(
                        (
                            _FRAME.pack(length >> 16, length & 0xFFFF, _HEADERS, _END_HEADERS, number),
                            head,
                            _MESSAGE.pack(size >> 16, size & 0xFFFF, _DATA, _END_STREAM, number, 0, size - 5),
                            message,
                        )
                    )
                )
                return stream
            self._window += size
        self._send_head(number, head)
        stream.rest = memoryview(struct.pack(">BI", 0, len(message)) + message)
        stream.window = self._initial_window
        self._sending[number] = stream
        self._pump()
        return stream

    @property
    def full(self) -> bool:
        """Whether the peer takes no more calls at once."""
        return len(self._streams) >= self._max_streams

    def slot(self) -> "asyncio.Future[None]":
        """Done when a call has ended here, or the connection has."""
        waiter = self._loop.create_future()
        self._slots.append(waiter)
        return waiter

    def reset(self, stream: Stream) -> None:
        """Ends a stream that has not ended yet."""
        if self._streams.pop(stream.number, None) is not None:
            self._sending.pop(stream.number, None)
            self._write(_reset(stream.number, failures.CANCEL))
            self._freed()

    def leave(self) -> None:
        """Begins no more calls; ends when those under way have."""
        self._leave("the address is no longer the target's")
        if not self._streams:
            self._transport.close()

    def close(self) -> None:
        """Ends all calls now."""
        self._leaving = True
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(failures.closed())
        self._wake()
        self._transport.write(_goaway(failures.NO_ERROR))
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection without a word."""
        self._transport.abort()

    # --- frames -----------------------------------------------------------------------------------

    def _on_data(self, number: int, flags: int, data: bytes) -> None:
        self._unread += len(data)
        if self._unread > _WINDOW_BYTES // 2:
            self._write(_window_update(self._unread))
            self._unread = 0
        if flags & _PADDED:
            data = _unpadded(data)
        stream = self._streams.get(number)
        if stream is None:  # cancelled since
            return
        if not stream.body:
            stream.body = data
        else:
            if type(stream.body) is bytes:
                stream.body = bytearray(stream.body)
            stream.body += data
        if len(stream.body) >= 5:
            length = int.from_bytes(stream.body[1:5])
            if length > self._max_message:
                self.reset(stream)
                stream.fail(failures.too_large("Received", length, self._max_message))
                return
            if len(stream.body) > length + 5:
                self.reset(stream)
                stream.fail(failures.broken("more than one response"))
                return
        if flags & _END_STREAM:
            self._end(stream)
            stream.fail(failures.broken("an answer without a status"))

    def _on_headers(self, number: int, flags: int, data: bytes) -> None:
        if flags & _PADDED:
            data = _unpadded(data)
        if flags & _PRIORITY:
            data = data[5:]
        if flags & _END_HEADERS:
            self._on_block(number, flags, data)
        else:
            self._block = (number, flags, bytearray(data))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        found = _known.get(block)
        if found is None:
            found = headers.decode(block)
            if len(block) < 128 and len(_known) < _KNOWN_BLOCKS:
                _known[block] = found
        stream = self._streams.get(number)
        if stream is None:
            return
        if not stream.headed:
            stream.headed = True
            status = found.get(":status")
            kind = found.get("content-type", b"")
            if status != b"200" or not kind.startswith(b"application/grpc"):
                if status is not None and status[:1] == b"1":
                    stream.headed = False  # only news on the way
                    return
                if "grpc-status" not in found:
                    self._finish(stream, flags)
                    stream.fail(failures.not_grpc(found))
                    return
        if not flags & _END_STREAM:
            return
        self._end(stream)
        if found.get("grpc-status") != b"0":
            stream.fail(failures.of_trailers(found))
            return
        body = stream.body
        if len(body) < 5 or len(body) != int.from_bytes(body[1:5]) + 5:
            stream.fail(failures.broken("an answer without a whole response"))
        elif body[0]:
            stream.fail(failures.broken("a compressed response, which was not asked for"))
        elif not stream.done.done():
            stream.done.set_result(bytes(body[5:]))

    def _on_other(self, kind: int, number: int, flags: int, data: bytes) -> None:
        if kind == _WINDOW:
            self._on_window(number, int.from_bytes(data) & _MOST_WINDOW)
        elif kind == _PING:
            if not flags & _ACK:
                self._write(_FRAME.pack(0, len(data), _PING, _ACK, 0) + data)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._on_settings(data)
        elif kind == _RST_STREAM:
            stream = self._streams.get(number)
            if stream is not None:
                self._end(stream, reset=False)
                code = int.from_bytes(data)
                stream.fail(
                    failures.UnprocessedError() if code == failures.REFUSED_STREAM else failures.reset(code)
                )
        elif kind == _GOAWAY:
            self._on_goaway(int.from_bytes(data[:4]) & _MOST_WINDOW, int.from_bytes(data[4:8]))
        elif kind == _CONTINUATION:
            self._on_continuation(number, flags, data)
        elif kind == _PUSH:
            raise ValueError("a push that was not allowed")

    def _on_continuation(self, number: int, flags: int, data: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ValueError("a continuation of nothing")
        _, first_flags, block = self._block
        block += data
        if len(block) > headers.MAX_BYTES:
            raise ValueError("headers are too large")
        if flags & _END_HEADERS:
            self._block = None
            self._on_block(number, first_flags, bytes(block))

    def _on_settings(self, data: bytes) -> None:
        for key, value in _SETTING.iter_unpack(data):
            if key == 3:
                self._max_streams = value
            elif key == 4:
                for stream in self._sending.values():
                    stream.window += value - self._initial_window
                self._initial_window = value
            elif key == 5:
                self._max_frame = value
        self._write(_SETTINGS_ACK)
        if not self._settled:
            self._settled = True
            if not self._leaving:
                self._on_ready(self)
        self._wake()
        self._pump()

    def _on_window(self, number: int, more: int) -> None:
        if number == 0:
            self._window += more
        else:
            stream = self._sending.get(number)
            if stream is None:
                return
            stream.window += more
        if self._sending:
            self._pump()

    def _on_goaway(self, last: int, code: int) -> None:
        self._why = f"the peer has gone away with HTTP/2 error {code}"
        self._leave(self._why)
        for number in [number for number in self._streams if number > last]:
            stream = self._streams.pop(number)
            self._sending.pop(number, None)
            stream.fail(failures.UnprocessedError())
        if not self._streams:
            self._transport.close()

    # --- own --------------------------------------------------------------------------------------

    def _finish(self, stream: Stream, flags: int) -> None:
        """Ends a stream from our side, whether or not the peer has ended it."""
        if flags & _END_STREAM:
            self._end(stream)
        else:
            self.reset(stream)

    def _end(self, stream: Stream, *, reset: bool = True) -> None:
        """The peer has ended a stream."""
        del self._streams[stream.number]
        if stream.rest is not None and self._sending.pop(stream.number, None) is not None and reset:
            self._write(_reset(stream.number, failures.CANCEL))  # it did not want the rest
        self._freed()

    def _freed(self) -> None:
        if self._slots:
            self._wake()
        if self._leaving and not self._streams:
            self._transport.close()
        elif self._next > _LAST_STREAM and not self._leaving:
            self._leave("the connection has had all its calls")
            if not self._streams:
                self._transport.close()

    def _wake(self) -> None:
        slots, self._slots = self._slots, []
        for waiter in slots:
            if not waiter.done():
                waiter.set_result(None)

    def _send_head(self, number: int, head: bytes) -> None:
        most = self._max_frame
        pieces = [head[at : at + most] for at in range(0, len(head), most)]
        for place, piece in enumerate(pieces):
            kind = _CONTINUATION if place else _HEADERS
            flags = _END_HEADERS if place == len(pieces) - 1 else 0
            self._write(_FRAME.pack(len(piece) >> 16, len(piece) & 0xFFFF, kind, flags, number) + piece)

    def _pump(self) -> None:
        """Sends what waits, as far as the windows reach."""
        for number, stream in list(self._sending.items()):
            rest = stream.rest
            while rest:
                size = min(len(rest), self._window, stream.window, self._max_frame)
                if size <= 0:
                    break
                flags = _END_STREAM if size == len(rest) else 0
                self._write(_FRAME.pack(size >> 16, size & 0xFFFF, _DATA, flags, number) + rest[:size])
                self._window -= size
                stream.window -= size
                rest = rest[size:]
            stream.rest = rest
            if not rest:
                del self._sending[number]
            if self._window <= 0:
                break

    def _leave(self, why: str) -> None:
        if not self._leaving:
            self._leaving = True
            self._wake()
            self._on_lost(self, why)

    def _break(self, code: int, why: str) -> None:
        self._why = f"the peer does not keep to HTTP/2: {why}"
        self._write(_goaway(code))
        self._transport.abort()

    def _listen(self) -> None:
        """Asks whether the peer is still there if calls wait and nothing has been heard for a while."""
        heard, self._heard = self._heard, False
        if heard or not self._streams:
            self._look = self._loop.call_later(_PING_AFTER_S, self._listen)
            return
        self._write(_FRAME.pack(0, 8, _PING, 0, 0) + bytes(8))
        self._look = self._loop.call_later(_PONG_WITHIN_S, self._judge)

    def _judge(self) -> None:
        if self._heard:
            self._look = self._loop.call_later(_PING_AFTER_S, self._listen)
            return
        self._why = "the peer does not answer a ping"
        self._transport.abort()


def _reset(number: int, code: int) -> bytes:
    return _FRAME.pack(0, 4, _RST_STREAM, 0, number) + code.to_bytes(4)


def _window_update(more: int) -> bytes:
    return _FRAME.pack(0, 4, _WINDOW, 0, 0) + more.to_bytes(4)


def _goaway(code: int) -> bytes:
    return _FRAME.pack(0, 8, _GOAWAY, 0, 0) + bytes(4) + code.to_bytes(4)


def _unpadded(data: bytes) -> bytes:
    padding = data[0]
    if padding >= len(data):
        raise ValueError("more padding than data")
    return data[1 : len(data) - padding]
