"""The ASGI application of one listener: routes, keys, limits, and one form for every answer and error."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Final

import grpc

from services.gateway import faults
from services.gateway.authorize import refusal
from services.gateway.edge import Edge
from services.gateway.events import ERROR, event
from services.gateway.exchange import Answer, Exchange, Handler, Headers, Pieces, Receive, Scope, Send
from services.gateway.hosts import asks_for_loopback
from services.mesh import errors, json_codec, logs
from services.mesh.errors import MeshError

_log = logging.getLogger("services.gateway.requests")

_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_CLIENT_GONE: Final = 499
# Where tasks are run.
_TASKS: Final = frozenset({"/execute", "/run"})

Find = Callable[[Exchange], Mapping[str, Handler] | None]


class App:
    """Routes: path → method → handler; `find` knows more of them. `name` is the listener's: `gateway`, or a
    runtime's.

    `local` takes requests for this machine's loopback alone, by their Host: a web page whose name was made to
    lead here (DNS rebinding) sends its own.
    """

    def __init__(
        self,
        name: str,
        edge: Edge,
        routes: Mapping[str, Mapping[str, Handler]],
        find: Find = lambda _exchange: None,
        *,
        local: bool = False,
    ) -> None:
        self.name = name
        self._local = local
        self._edge = edge
        self._routes = routes
        self._find = find
        self._sessions = 0
        edge.metrics.sessions.labels(name).set_function(lambda: self._sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. The server cancels this when the client hangs up, and the RPC with it."""
        began = time.monotonic()
        exchange = Exchange(scope, receive, self.name, began)
        logs.request_id.set(exchange.request_id)
        span = self._edge.spans.begin(exchange)
        self._edge.in_flight += 1
        session = exchange.path in _TASKS
        self._sessions += session
        error: MeshError | None = None
        status = _CLIENT_GONE
        answer: Answer | None = None
        try:
            try:
                answer = await self._answer(exchange)
            except MeshError as raised:
                error = raised
                answer = self._failure(exchange, raised)
            except Exception as raised:
                _log.exception("%s failed", exchange.path, extra={"fields": {"task": exchange.task}})
                error = errors.translate(raised)
                answer = self._failure(exchange, error)
            status = answer.status
            headers = self._headers(exchange, answer)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            if answer.pieces is None:
                await send({"type": "http.response.body", "body": answer.body})
            else:
                error = await self._send(exchange, answer, answer.pieces, send)
        except asyncio.CancelledError:
            # The client has hung up: nobody is left to be answered. Ending here is what the cancel asked for.
            status = _CLIENT_GONE
        finally:
            self._edge.in_flight -= 1
            self._edge.leave(exchange)
            self._sessions -= session
            seconds = time.monotonic() - began
            path = exchange.template or (exchange.path if exchange.path in self._routes else "other")
            self._edge.metrics.answered(self.name, path, status, seconds)
            if exchange.task and _ended_here(error):
                self._edge.metrics.ended_here(self.name, status, seconds)
            if span is not None:
                self._edge.spans.end(span, exchange, status, error)
            if answer is not None and answer.pieces is not None:
                self._edge.metrics.streamed(self.name, path, exchange.events, _end(status, error))
            self._note(exchange, status, error, seconds)

    async def _send(self, exchange: Exchange, answer: Answer, pieces: Pieces, send: Send) -> MeshError | None:
        """The body piece by piece; the error, if any, that it ended with.

        The server's `send` waits while the client does not keep up, and so does whoever makes the pieces.
        """
        error: MeshError | None = None
        async with aclosing(pieces):
            try:
                async with asyncio.timeout_at(answer.until):
                    try:
                        async for piece in pieces:
                            await send({"type": "http.response.body", "body": piece, "more_body": True})
                            exchange.events += 1
                    except MeshError as raised:
                        error = raised
                    except Exception as raised:
                        _log.exception("%s failed", exchange.path, extra={"fields": {"task": exchange.task}})
                        error = errors.translate(raised)
                    last = b"" if error is None else event(ERROR, self._failure(exchange, error).body)
                    await send({"type": "http.response.body", "body": last, "more_body": bool(last)})
                    if last:
                        await send({"type": "http.response.body", "body": b""})
            except TimeoutError:
                # Who reads does not keep up, and would hold all that has been sent for ever.
                exchange.hang_up()
                error = faults.too_late((answer.until - exchange.began) * 1000)
        return error

    async def _answer(self, exchange: Exchange) -> Answer:
        if exchange.doubtful:
            exchange.check_headers()
        if self._local and not asks_for_loopback(exchange.headers.get(b"host", b"localhost")):
            raise faults.host_not_local()
        methods = self._routes.get(exchange.path) or self._find(exchange)
        if methods is None:
            raise faults.unknown_path(exchange.path, self._routes)
        handler = methods.get(exchange.method)
        if handler is not None:
            return await handler(exchange)
        if exchange.method == "HEAD" and "GET" in methods:
            return await methods["GET"](exchange)
        if exchange.method == "OPTIONS" and self._edge.cors.is_preflight(exchange):
            return Answer(204, b"", headers=self._edge.cors.preflight(list(methods)))
        raise faults.method_not_allowed([*methods, "HEAD"] if "GET" in methods else list(methods))

    def _failure(self, exchange: Exchange, error: MeshError) -> Answer:
        if exchange.grpc:
            return refusal(error)
        status = faults.status_of(error)
        body = faults.fields_of(
            error,
            request_id=exchange.request_id,
            duration_ms=_ms(time.monotonic() - exchange.began),
            service=exchange.service,
        )
        return Answer(status, json_codec.dumps(body), headers=faults.headers_of(error, status))

    def _headers(self, exchange: Exchange, answer: Answer) -> Headers:
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", str(len(answer.body)).encode()),
            (b"x-request-id", exchange.request_id.encode()),
            _NOSNIFF,
            *answer.headers,
        ]
        if answer.status == 204:
            del headers[:2]
        elif answer.pieces is not None:
            del headers[1]
        if b"origin" in exchange.headers:
            headers += self._edge.cors.headers(exchange)
        return headers

    def _note(self, exchange: Exchange, status: int, error: MeshError | None, seconds: float) -> None:
        worst = status if error is None else faults.status_of(error)
        if worst < 400:
            level = logging.DEBUG
        elif worst < 500:
            level = logging.INFO
        else:
            level = logging.ERROR if worst == 500 else logging.WARNING
        if not _log.isEnabledFor(level):
            return
        fields: dict[str, object] = {"method": exchange.method, "path": exchange.path[:200], "status": status}
        if exchange.task:
            fields["task"] = exchange.task
        if exchange.events:
            fields["events"] = exchange.events
        if error is not None:
            fields["reason"] = error.reason_name
        _log.log(
            level,
            "%s %s %d",
            exchange.method,
            exchange.path[:200],
            status,
            extra={"duration_ms": _ms(seconds), "fields": fields},
        )


def _end(status: int, error: MeshError | None) -> str:
    """How a stream ended."""
    if status == _CLIENT_GONE:
        return "cancelled"
    return "complete" if error is None else "failed"


def _ended_here(error: MeshError | None) -> bool:
    """Whether a task came to its end without a service having had it."""
    if error is None:
        return False
    # What comes of an RPC names its error as the cause; anything else was raised here.
    cause = error.__cause__
    if not isinstance(cause, MeshError):
        return not error.from_peer
    return not cause.from_peer and (cause.unsent or cause.code is grpc.StatusCode.UNAVAILABLE)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
