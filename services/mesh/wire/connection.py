"""One HTTP/2 connection to a gRPC server (RFC 9113): unary calls as streams, with flow control both ways.

Everything happens in the event loop's thread, where grpc.aio goes through a poller and core's own threads
and wakes the loop again for each step of a call.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from services.mesh.wire import failures, frames, headers
from services.mesh.wire.frames import BreachError
from services.mesh.wire.stream import Stream

# Bytes of all responses together that the peer may send before it is told that they were read.
_WINDOW_BYTES: Final = 16 << 20
# Our own frames: large enough to be few, small enough that a peer that stops reading leaves little behind.
_OWN_FRAME: Final = 64 << 10
# Answers to a peer's pings and settings that may wait until it reads them, in bytes.
_MOST_REPLIES: Final = 1 << 20
# What is kept of a peer's parting words.
_SAID_BYTES: Final = 100
# As TLS names HTTP/2 (RFC 9113, 3.2).
_PROTOCOL: Final = "h2"
# Streams are numbered by 31 bits; a connection that comes near the end is left.
_LAST_STREAM: Final = (1 << 31) - 1024

# As gRPC's core does (transport.py has the same for grpc.aio), in seconds.
_PING_AFTER_S: Final = 20.0
_PONG_WITHIN_S: Final = 10.0
# How long what was written last may take to leave when a connection ends, in seconds.
LINGER_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Events:
    """What a connection tells whoever made it."""

    # The peer speaks HTTP/2.
    ready: "Callable[[Connection], None]"
    # No new call may begin here any more, and why.
    left: "Callable[[Connection, str], None]"
    # It is closed.
    gone: "Callable[[Connection], None]"
    # It takes calls again after having been full.
    room: Callable[[], None]


class Connection(asyncio.Protocol):
    """Calls may begin from `Events.ready` to `Events.left`, while it is not `full`."""

    def __init__(
        self, address: tuple[str, int], max_message_bytes: int, events: Events, generation: int = 0
    ) -> None:
        """`generation` is for whoever made it: of which certificates, say."""
        self.address = address
        self.generation = generation
        self._max_message = max_message_bytes
        self._events = events
        self._loop = asyncio.get_running_loop()
        # Done once the peer has spoken, or will not: then with the reason.
        self.settled: asyncio.Future[str | None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None]
        self._streams: dict[int, Stream] = {}
        self._sending: dict[int, Stream] = {}
        self._next = 1
        self._window = self._initial_window = frames.DEFAULT_WINDOW
        self._max_frame = frames.MAX_FRAME
        self._max_streams = frames.MOST
        self._partial = b""
        self._block: tuple[int, int, bytearray] | None = None
        self._unread = 0
        self._greeted = False
        self._leaving = False
        # The transport holds more than the peer reads.
        self._paused = False
        # When something was heard last; None from a ping on.
        self._heard: float | None = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._why = "the connection was lost"

    # --- asyncio ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's
        self._write = transport.write
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None and encrypted.selected_alpn_protocol() != _PROTOCOL:
            self._give_up("the peer does not speak HTTP/2 over TLS")
            return
        _limit_silence(transport)
        window = min(frames.MOST, self._max_message + frames.MAX_FRAME)
        self._write(
            frames.PREFACE
            # No table for headers, no pushes, a whole response at once, and so much of headers.
            + frames.settings(((1, 0), (2, 0), (4, window), (6, headers.MAX_BYTES)))
            + frames.window_update(0, _WINDOW_BYTES - frames.DEFAULT_WINDOW)
        )
        self._start(_PING_AFTER_S, self._listen)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        why = self._why if exc is None else f"{self._why}: {exc}"
        self._leave(why)
        streams, self._streams = self._streams, {}
        self._sending.clear()
        for stream in streams.values():
            stream.fail(failures.lost(why))
        self._events.gone(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()
        self._tell_room()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._partial:
            data = self._partial + data
        at, size = 0, len(data)
        try:
            while size - at >= frames.HEAD_BYTES:
                high, low, kind, flags, number = frames.HEAD.unpack_from(data, at)
                length = high << 16 | low
                if length > frames.MAX_FRAME:
                    raise BreachError("a frame is too large", frames.FRAME_SIZE_ERROR)
                start = at + frames.HEAD_BYTES
                end = start + length
                if end > size:
                    break
                if not self._greeted and (kind != frames.SETTINGS or flags & frames.ACK):
                    raise BreachError("it begins without settings")
                if self._block is not None and kind != frames.CONTINUATION:
                    raise BreachError("headers that do not end")
                number &= frames.MOST
                if kind == frames.DATA:
                    self._on_data(number, flags, data[start:end])
                elif kind == frames.HEADERS:
                    self._on_headers(number, flags, data[start:end])
                elif kind <= frames.CONTINUATION:
                    self._on_other(kind, number, flags, data[start:end])
                at = end
        except BreachError as error:
            self._break(error.code, str(error))
            return
        self._partial = data[at:] if at < size else b""

    # --- calls ------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the peer takes no more calls now: it has enough of them, or does not read."""
        return self._paused or len(self._streams) >= self._max_streams

    def begin(self, head: bytes, message: bytes) -> Stream:
        """Sends a request, as far as the peer takes it now. Only while not `full`."""
        number = self._next
        self._next = number + 2
        if number == 1:
            head = headers.NO_TABLE + head
        stream = Stream(number, self._loop.create_future(), self._max_message, self.reset)
        self._streams[number] = stream
        length, size = len(head), len(message) + 5
        if (
            not self._sending
            and size <= self._window
            and size <= self._initial_window
            and size <= self._max_frame >= length
        ):
            self._window -= size
            self._write(
                b"".join(
                    (
                        frames.HEAD.pack(
                            length >> 16, length & 0xFFFF, frames.HEADERS, frames.END_HEADERS, number
                        ),
                        head,
                        frames.MESSAGE.pack(
                            size >> 16, size & 0xFFFF, frames.DATA, frames.END_STREAM, number, 0, size - 5
                        ),
                        message,
                    )
                )
            )
        else:
            self._send_head(number, head)
            stream.rest = memoryview(struct.pack(">BI", 0, len(message)) + message)
            stream.window = self._initial_window
            self._sending[number] = stream
            self._pump()
        if number >= _LAST_STREAM:
            self._leave("the connection has had all its calls")
        return stream

    def reset(self, stream: Stream, code: int = frames.CANCEL) -> None:
        """Ends a stream, if it has not ended yet."""
        if self._streams.pop(stream.number, None) is not None:
            self._sending.pop(stream.number, None)
            self._write(frames.reset(stream.number, code))
            self._freed()

    def leave(self) -> None:
        """Begins no more calls; ends when those under way have."""
        self._leave("the address is no longer the target's")
        if not self._streams:
            self._hang_up()

    def close(self) -> None:
        """Ends all calls now."""
        self._leaving = True
        streams, self._streams = self._streams, {}
        self._sending.clear()
        for stream in streams.values():
            stream.fail(failures.closed())
        self._write(frames.goaway(frames.NO_ERROR))
        self._hang_up()

    def abort(self) -> None:
        """Ends the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    # --- frames -----------------------------------------------------------------------------------

    def _on_data(self, number: int, flags: int, data: bytes) -> None:
        # Padding and what comes too late count as well (6.9.1).
        self._unread += len(data)
        if self._unread > _WINDOW_BYTES // 2:
            self._write(frames.window_update(0, self._unread))
            self._unread = 0
        stream = self._streams.get(number)
        if stream is None:
            self._require_begun(number)
            return
        if flags & frames.PADDED:
            size = len(data)
            data = frames.unpadded(data)
            # The stream's window holds a whole response, but no padding.
            self._reply(frames.window_update(number, size - len(data)))
        error = stream.on_data(data)
        if error is None and flags & frames.END_STREAM:
            error = failures.broken("an answer without a status")
        if error is not None:
            self._finish(stream, flags)
            stream.fail(error)

    def _on_headers(self, number: int, flags: int, data: bytes) -> None:
        if flags & frames.PADDED:
            data = frames.unpadded(data)
        if flags & frames.WITH_PRIORITY:
            if len(data) < 5:
                raise BreachError("headers without the priority they announce", frames.FRAME_SIZE_ERROR)
            data = data[5:]
        if flags & frames.END_HEADERS:
            self._on_block(number, flags, data)
        else:
            self._block = (number, flags, bytearray(data))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            self._require_begun(number)
            return
        try:
            error = stream.on_headers(headers.decode(block), flags & frames.END_STREAM)
        except headers.TooLargeError:
            error = failures.too_much_metadata()
        except ValueError as broken:
            raise BreachError(str(broken), frames.COMPRESSION_ERROR) from None
        if flags & frames.END_STREAM or error is not None:
            self._finish(stream, flags)
        if error is not None:
            stream.fail(error)

    def _on_other(self, kind: int, number: int, flags: int, data: bytes) -> None:
        frames.check(kind, number, len(data))
        if kind == frames.WINDOW:
            self._on_window(number, int.from_bytes(data) & frames.MOST)
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self._reply(frames.frame(frames.PING, frames.ACK, 0, data))
        elif kind == frames.SETTINGS:
            if not flags & frames.ACK:
                self._on_settings(data)
            elif data:
                raise BreachError("an acknowledgement with settings", frames.FRAME_SIZE_ERROR)
        elif kind == frames.RST_STREAM:
            stream = self._streams.get(number)
            if stream is None:
                self._require_begun(number)
            else:
                self._end(stream, reset=False)
                stream.on_reset(int.from_bytes(data))
        elif kind == frames.GOAWAY:
            if len(data) < 8:
                raise BreachError("a farewell that is too short", frames.FRAME_SIZE_ERROR)
            self._on_goaway(int.from_bytes(data[:4]) & frames.MOST, int.from_bytes(data[4:8]), data[8:])
        elif kind == frames.CONTINUATION:
            self._on_continuation(number, flags, data)
        elif kind == frames.PUSH:
            raise BreachError("a push that was not allowed")

    def _on_continuation(self, number: int, flags: int, data: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise BreachError("a continuation of nothing")
        _, first_flags, block = self._block
        if len(block) <= headers.MAX_BYTES:  # what is too large already need not be kept
            block += data
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(number, first_flags, bytes(block))

    def _on_settings(self, data: bytes) -> None:
        if len(data) % frames.SETTING.size:
            raise BreachError("settings that are cut off", frames.FRAME_SIZE_ERROR)
        for key, value in frames.SETTING.iter_unpack(data):
            if key == 3:
                self._max_streams = value
            elif key == 4:
                self._on_initial_window(value)
            elif key == 5:
                if not frames.MAX_FRAME <= value <= frames.LARGEST_FRAME:
                    raise BreachError("a limit of frames that may not be")
                self._max_frame = min(value, _OWN_FRAME)
        self._reply(frames.SETTINGS_ACK)
        self._pump()
        if not self._greeted:
            self._greeted = True
            if not self._leaving:
                self._events.ready(self)
            if not self.settled.done():
                self.settled.set_result(None)
        else:
            self._tell_room()

    def _on_initial_window(self, value: int) -> None:
        more = value - self._initial_window
        self._initial_window = value
        for stream in self._sending.values():
            stream.window += more  # may be negative from now on (6.9.2)
        if max((value, *(stream.window for stream in self._sending.values()))) > frames.MOST:
            raise BreachError("a window that is too large", frames.FLOW_CONTROL_ERROR)

    def _on_window(self, number: int, more: int) -> None:
        if not more:
            raise BreachError("a window that does not grow")
        if number == 0:
            self._window = window = self._window + more
        elif number not in self._sending:
            self._require_begun(number)
            return
        else:
            stream = self._sending[number]
            stream.window = window = stream.window + more
        if window > frames.MOST:
            raise BreachError("a window that is too large", frames.FLOW_CONTROL_ERROR)
        if self._sending:
            self._pump()

    def _on_goaway(self, last: int, code: int, text: bytes) -> None:
        said = ascii(text[:_SAID_BYTES].decode("utf-8", "replace"))
        self._why = f"the peer has gone away with HTTP/2 error {code}, saying {said}"
        self._leave(self._why)
        for number in [number for number in self._streams if number > last]:
            stream = self._streams.pop(number)
            self._sending.pop(number, None)
            stream.fail(failures.UnprocessedError(self._why, refused=False))
        if not self._streams:
            self._hang_up()

    # --- own --------------------------------------------------------------------------------------

    def _require_begun(self, number: int) -> None:
        """A stream that has ended may still be spoken of, one that has not begun may not (5.1)."""
        if not number & 1 or number >= self._next:
            raise BreachError("a frame of a stream that has not begun")

    def _finish(self, stream: Stream, flags: int) -> None:
        """Ends a stream from our side, whether or not the peer has ended it."""
        if flags & frames.END_STREAM:
            self._end(stream)
        else:
            self.reset(stream)

    def _end(self, stream: Stream, *, reset: bool = True) -> None:
        """The peer has ended a stream."""
        del self._streams[stream.number]
        if stream.rest and self._sending.pop(stream.number, None) is not None and reset:
            self._write(frames.reset(stream.number, frames.CANCEL))  # it did not want the rest
        self._freed()

    def _freed(self) -> None:
        if self._leaving:
            if not self._streams:
                self._hang_up()
        elif len(self._streams) + 1 >= self._max_streams:
            self._tell_room()

    def _tell_room(self) -> None:
        if not self._leaving and self._greeted and not self.full:
            self._events.room()

    def _reply(self, data: bytes) -> None:
        """Writes what the peer makes us write."""
        transport = cast(asyncio.Transport, self._transport)
        if self._paused and transport.get_write_buffer_size() > _MOST_REPLIES:
            raise BreachError("it asks but does not read", frames.ENHANCE_YOUR_CALM)
        self._write(data)

    def _send_head(self, number: int, head: bytes) -> None:
        most = self._max_frame
        pieces = [head[at : at + most] for at in range(0, len(head), most)]
        for place, piece in enumerate(pieces):
            kind = frames.CONTINUATION if place else frames.HEADERS
            flags = frames.END_HEADERS if place == len(pieces) - 1 else 0
            self._write(frames.frame(kind, flags, number, piece))

    def _pump(self) -> None:
        """Sends what waits, as far as the windows reach and the peer reads."""
        for number, stream in list(self._sending.items()):
            while stream.rest and not self._paused:
                rest = stream.rest
                size = min(len(rest), self._window, stream.window, self._max_frame)
                if size <= 0:
                    break
                self._window -= size
                stream.window -= size
                stream.rest = rest[size:]
                flags = 0 if stream.rest else frames.END_STREAM
                self._write(frames.frame(frames.DATA, flags, number, rest[:size]))
            if not stream.rest:
                del self._sending[number]

    # --- ends -------------------------------------------------------------------------------------

    def _leave(self, why: str) -> None:
        if not self._leaving:
            self._leaving = True
            if not self.settled.done():
                self.settled.set_result(why)
            self._events.left(self, why)

    def _hang_up(self) -> None:
        """Closes once all is sent; a peer that does not read cannot keep the connection for ever."""
        transport = cast(asyncio.Transport, self._transport)
        if not transport.is_closing():
            transport.close()
            self._start(LINGER_S, transport.abort)

    def _break(self, code: int, why: str) -> None:
        self._give_up(f"the peer does not keep to HTTP/2: {why}", frames.goaway(code))

    def _give_up(self, why: str, last_words: bytes = b"") -> None:
        self._why = why
        self._leave(why)
        if last_words:
            self._write(last_words)
        self.abort()

    def _start(self, wait_s: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, then)

    def _listen(self) -> None:
        """Asks whether the peer is still there if calls wait and nothing has been heard for a while."""
        silent_s = self._loop.time() - (self._heard or 0.0)
        if silent_s < _PING_AFTER_S:
            self._start(_PING_AFTER_S - silent_s, self._listen)
        elif not self._streams and not self._paused:
            self._start(_PING_AFTER_S, self._listen)
        else:
            self._heard = None
            self._write(frames.frame(frames.PING, 0, 0, bytes(8)))
            self._start(_PONG_WITHIN_S, self._judge)

    def _judge(self) -> None:
        if self._heard is None:
            self._give_up("the peer does not answer a ping")
        else:
            self._listen()


def _limit_silence(transport: asyncio.Transport) -> None:
    """What was sent must be acknowledged as soon as a ping, as in gRPC's core (gRFC A18).

    A machine that has gone without a word is noticed at the next call, not 20 s after it.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    connected = transport.get_extra_info("socket")
    if option is not None and connected is not None:
        connected.setsockopt(socket.IPPROTO_TCP, option, int(_PONG_WITHIN_S * 1000))
