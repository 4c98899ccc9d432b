"""One HTTP connection: uvicorn's, with limits it lacks, and without an answer that is not JSON."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_MALFORMED_BODY

from services.gateway import faults, heads
from services.gateway.crowd import UNREAD_S, Crowd
from services.gateway.exchange import ARRIVED, CONNECTION
from services.gateway.faults import HttpFault
from services.gateway.parting import DISCARD_BYTES, Parting
from services.mesh import json_codec
from services.mesh.errors import MeshError
from services.mesh.request_id import new_request_id

# Without a setting.
MAX_CONNECTIONS: Final = 4096
# What has begun to arrive has to be here by then, or its connection ends: a head, or what follows the last
# answer. In seconds.
ARRIVAL_S: Final = 10.0
_CONTINUE: Final = b"HTTP/1.1 100 "

# Listener's name and status of what was refused before it was a request.
Refused = Callable[[str, int], None]


@dataclass(slots=True)
class Connections:
    """All connections of one server, and whether it is on its way out."""

    max_head_bytes: int
    refused: Refused
    crowd: Crowd = field(default_factory=lambda: Crowd(MAX_CONNECTIONS))
    arrival_s: float = ARRIVAL_S
    unread_s: float = UNREAD_S
    draining: bool = False
    open: "set[Connection]" = field(default_factory=set)


def _always() -> bool:
    return True


class _OneWrite:
    """A transport for one answer that sends head and body together.

    uvloop writes at once what it is given: two writes are two system calls, two packets, and a client that
    wakes up twice. An answer of this gateway always has a body message right after its head. The pieces of a
    stream that come later are written as they come.
    """

    __slots__ = ("_close", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self._close = close
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """The head is kept for the body; `100 Continue` goes at once."""
        if self._head is None:
            if data.startswith(_CONTINUE):
                self._transport.write(data)
            else:
                self._head = data
            return
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._transport.write(data)

    def close(self) -> None:
        """After what is kept has been sent."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._close()

    def is_closing(self) -> bool:
        """As the transport says."""
        return self._transport.is_closing()


class Connection(HttpToolsProtocol):
    """Cancels a request whose client hangs up; bounds the head's size and time; drains."""

    def __init__(self, config: Config, state: ServerState, connections: Connections, name: str) -> None:
        super().__init__(config, state, {})
        self._mesh = connections
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._head_open = True
        self._head_bytes = 0
        self._in_body = False
        # A chunk's size has come and nothing of it yet; after the size of the last, trailers come.
        self._in_trailers = False
        self._trailer_bytes = 0
        self._trailer_piece_bytes = 0
        self._piece_bytes = 0
        self._piece_body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        # Runs while the client does not read.
        self._reading: asyncio.TimerHandle | None = None
        self._joined = False
        self._discarded = 0
        self._fault: HttpFault | None = None
        self._odd_method = ""
        # The head that has just come asks for another protocol.
        self._wishes = False
        self._running: RequestResponseCycle | None = None
        # What is said once all requests have their answers, if nothing is listened to any more.
        self._last: bytes | None = None
        self._parting: Parting | None = None
        self._parted = False
        # Why nothing is done for whoever is at the other end.
        self.refusal: MeshError | None = None
        # Whether whoever is at the other end would be let in again.
        self.still_trusted: Callable[[], bool] = _always
        self._awaited_until = 0.0

    # --- asyncio ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._mesh.open.add(self)
        self._timer = self.loop.call_later(self._mesh.arrival_s, self._late)
        self._joined = self._mesh.crowd.join(self)
        if not self._joined:  # told and ended at once: waiting for it to hang up would be one more
            transport.write(self._refusal(faults.crowded()))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._mesh.open.discard(self)
        if self._joined:
            self._mesh.crowd.leave(self)
        self._cancel_timer()
        self._cancel_reading()
        task, self._task = self._task, None
        super().connection_lost(exc)
        self.pipeline = deque()
        if task is not None:
            self._cancel(task)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(self._mesh.unread_s, self.hang_up)
        self._mesh.crowd.unread(self)

    def resume_writing(self) -> None:
        self._cancel_reading()
        self._mesh.crowd.reads(self)
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._mesh.crowd.speaks(self)
        if self.refusal is not None:
            self._refuse(self.refusal)
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        began_in_body, began_in_head = self._in_body, self._head_bytes
        if began_in_body and self._in_trailers:
            self._trailer_piece_bytes += len(data)
        try:
            while (rest := self._fed(data)) is not None:
                data = rest
        except httptools.HttpParserError:
            known = None if began_in_body or began_in_head else self._with_known_method(data)
            if known is None:
                self._not_http()
            else:
                self.data_received(known)
            return
        if self._head_open:
            self._head_bytes += len(data) - self._piece_body_bytes
            if self._head_bytes > self._mesh.max_head_bytes:
                self._refuse(faults.headers_too_large(self._mesh.max_head_bytes))
            elif self._head_bytes:
                self._limit_arrival()
        elif self._in_body:
            # A trailer without an end is not told of by the parser, which keeps it.
            if self._in_trailers and self._trailer_piece_bytes > self._mesh.max_head_bytes:
                self._refuse(faults.trailers_too_large(self._mesh.max_head_bytes))
        elif not self.cycle.response_complete:
            return  # nearly always: a request is under way now
        elif began_in_body:
            self._keep_alive()  # all of a body has come whose answer went first
        else:
            self._limit_arrival()  # empty lines, which may stand before a request: it has to follow

    # --- httptools --------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open = True
        self._head_bytes = 0
        self._awaited_until = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            self._on_trailer(name, value)
            return
        name = name.lower()
        value = value.rstrip(
            b" \t"
        )  # no part of it (RFC 9110, 5.5); what stands before, the parser leaves out
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._wishes = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._wishes:
            return  # comes again, without the wish
        self._head_open = False
        limit = self._mesh.max_head_bytes
        # A piece that fits holds no head that does not.
        if self._piece_bytes + self._head_bytes > limit and self._exact_head_bytes() > limit:
            self._fault = faults.headers_too_large(limit)
            raise ValueError("the head is too large")  # makes the parser stop
        if self._timer is not None:  # as it is while a head comes in pieces
            self._cancel_timer()
            self._head_bytes = 0
        if self.url[:1] != b"/" and self.parser.get_method() == b"CONNECT":
            self.url = b"*"  # it names a host to be led to, and no path of ours
        super().on_headers_complete()
        if self.scope["method"] == "CONNECT":
            self.cycle.keep_alive = (
                False  # what follows is for that host: nobody should take it for a request
            )
        self._in_body = True
        if self._odd_method:
            self.scope["method"], self._odd_method = self._odd_method, ""

    def on_chunk_header(self) -> None:
        """The line with a chunk's size has come."""
        self._in_trailers = True
        self._trailer_bytes = self._trailer_piece_bytes = 0

    def on_chunk_complete(self) -> None:
        """The chunk has come, or with the last one all trailers."""
        self._in_trailers = False

    def on_body(self, body: bytes) -> None:
        self._piece_body_bytes += len(body)
        self._in_trailers = False
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > DISCARD_BYTES:
                self.transport.close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._wishes:
            return
        self._in_body = False
        if self.cycle.response_complete:
            self._cancel_timer()
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()

    # --- uvicorn ----------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        if self._parted or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._last is not None:
            self._part()
        elif self._in_body:
            self._limit_arrival()  # of what nobody wants any more; a client may send it as slowly as it likes
        else:
            self._keep_alive()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._mesh.draining or not self.still_trusted():
            cycle.keep_alive = False
        self._discarded = 0
        cycle.scope[ARRIVED] = cycle.message_event.is_set  # type: ignore[typeddict-unknown-key]
        cycle.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]
        if cycle.scope["method"] != "HEAD":  # which has no body to wait for
            cycle.transport = _OneWrite(self.transport, self._end)  # type: ignore[assignment]
        self._running = cycle
        task = self._task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # --- drain ------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no request is under way or has begun to arrive."""
        if self._parted:
            return True
        if self._awaited_until and self.loop.time() < self._awaited_until:
            return False
        between = self.cycle is None or self.cycle.response_complete
        return between and not self.pipeline and not (self._head_open and self._head_bytes)

    def await_request(self, wait_s: float) -> None:
        """The first request is on its way, a drain should wait for it for so long."""
        self._awaited_until = self.loop.time() + wait_s

    def drain(self) -> None:
        """The answer to the request under way, or to the next one, is the last."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def close(self) -> None:
        """Ends the connection once what is written has been sent."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def hang_up(self) -> None:
        """Ends the connection in the middle of its answer: whoever reads it does not keep up."""
        if self._running is not None:
            self._running.disconnected = True
        self.transport.abort()

    def give_up(self) -> None:
        """Waits no longer for a request that has only begun to arrive; one that is here is left alone."""
        if self._parted or self.pipeline:
            return
        if self._head_open and (self.cycle is None or self.cycle.response_complete):
            self.close()
        elif self._in_body and not self.cycle.response_complete:
            self._refuse(faults.draining())

    # --- own --------------------------------------------------------------------------------------

    def _fed(self, data: bytes) -> bytes | None:
        """Gives it to the parser; what to go on with, where that stops at a wish for another protocol."""
        self._piece_bytes, self._piece_body_bytes = len(data), 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            if self._wishes:
                head = heads.without_wish(self.parser, self.url, self.headers)
                self.parser = heads.parser(self)
                return head + data[wish.args[0] :]
            # else CONNECT, which no path takes
        return None

    def _with_known_method(self, data: bytes) -> bytes | None:
        """A request whose method the parser knows nothing of, under another; None if it is no request.

        The application says what is wrong: it knows which methods the path has.
        """
        found = heads.of_unknown_method(data)
        if found is None:
            return None
        self.parser = heads.parser(self)
        self._odd_method, known = found
        return known

    def _not_http(self) -> None:
        """The parser has stopped."""
        fault, self._fault = self._fault, None
        self._refuse(fault or HttpFault("this is not HTTP", reason=ERROR_REASON_MALFORMED_BODY))

    def _on_trailer(self, name: bytes, value: bytes) -> None:
        """Passed over: no field here is meant to come so late, least of all a key (RFC 9110, 6.5)."""
        self._trailer_bytes += len(name) + len(value) + 4
        if self._trailer_bytes > self._mesh.max_head_bytes:
            self._fault = faults.trailers_too_large(self._mesh.max_head_bytes)
            raise ValueError("the trailers are too large")  # makes the parser stop

    def _keep_alive(self) -> None:
        """Waits for the next request."""
        if not self._parted and not self.transport.is_closing():
            self._mesh.crowd.quiet(self)
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _limit_arrival(self) -> None:
        """What has begun to arrive has a limit from its beginning on, not from its last byte."""
        if self._timer is None and not self._parted and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._mesh.arrival_s, self._late)

    def _end(self) -> None:
        """Closes after the last answer. What is left of its request's body is read first."""
        if self._in_body and not self._parted and not self.transport.is_closing():
            self._part()
        else:
            self.transport.close()

    def _refuse(self, fault: MeshError) -> None:
        """Answers what never became a whole request, after all that came before, and ends the connection."""
        if self._last is not None or self._parted or self.transport.is_closing():
            return
        if self._in_body and self.cycle.response_complete:
            self._last = b""  # a second answer would be taken for that to the next request
        else:
            self._last = self._refusal(fault)
        self._stop()

    def _stop(self) -> None:
        """Listens to nothing more. `_last` is said now, or when the requests before have their answers."""
        self._cancel_timer()
        self._unset_keepalive_if_required()
        self._parting = Parting(self.transport, self)
        if self._in_body and not self.cycle.response_complete:
            # The last request will never be whole, and has no answer to give but this one.
            if self.pipeline:
                self.pipeline.popleft()
            elif self._task is not None:
                self._cancel(self._task)
                self._running = None
        if self._running is None or self._running.response_complete:
            self._part()

    def _part(self) -> None:
        """Says the last word."""
        self._parted = True
        if self._parting is None:
            self._cancel_timer()
            self._unset_keepalive_if_required()
            self._parting = Parting(self.transport, self)
        if self._last:
            self.transport.write(self._last)
        self._parting.end(self._mesh.arrival_s)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        """Ends a request under way without an answer."""
        if self._running is not None and not self._running.response_complete and not task.done():
            self._running.disconnected = True
            task.cancel()

    def _refusal(self, fault: MeshError) -> bytes:
        status = faults.status_of(fault)
        request_id = new_request_id()
        told = faults.fields_of(fault, request_id=request_id, duration_ms=0.0, service=self._name)
        body = json_codec.dumps(told)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            *faults.headers_of(fault, status),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self._mesh.refused(self._name, status)
        return STATUS_LINE[status] + lines + b"\r\n" + body

    def _exact_head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _late(self) -> None:
        self._timer = None
        if self._running is None or self._running.response_complete:
            self.close()
        elif self._last is None:
            self._last = b""  # it was the head of the next request; the one before is still to be answered
            self._stop()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _cancel_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
