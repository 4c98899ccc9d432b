"""Runs the task that a body names: JSON in, one RPC, JSON out."""

import re
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from services.gateway import bulk, caller, faults
from services.gateway.accept import preference
from services.gateway.authority import Authority, subject_of
from services.gateway.caller import Caller, StreamCaller
from services.gateway.events import CONTENT_TYPE, HEADERS, EventStream
from services.gateway.exchange import Answer, Exchange
from services.gateway.settings import MAX_TIMEOUT_MS
from services.gateway.tasks import Stream, Task
from services.gateway.written import written
from services.mesh import deadline, json_codec
from services.mesh.errors import DeadlineExceeded, FieldViolation, MeshError

_FIELDS: Final = frozenset({"task", "parameters", "timeout_ms"})
# How long a client that reads slowly has for what came before the deadline, in seconds.
_LAST_WORD_S: Final = 5.0
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]+")


class Executor:
    """The tasks of the contracts and how each is called."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        callers: Mapping[str, Caller],
        stream_callers: Mapping[str, StreamCaller],
        authority: Authority,
        *,
        max_body_bytes: int,
        timeout_ms: int,
    ) -> None:
        self.tasks = tasks
        self._callers = callers
        self._stream_callers = stream_callers
        self._authority = authority
        self._max_body_bytes = max_body_bytes
        self._timeout_ms = timeout_ms

    async def run(self, exchange: Exchange, runtime: str) -> tuple[dict[str, Any], int] | Answer:
        """What goes into the answer, and the attempts it took; or the answer, if it is a stream of events.

        `runtime`, if any, answers for the owner. The result is a dict, or its JSON where it is long.

        Raises MeshErrors, their paths from the body's root. Sets `exchange.service` once it is known.
        """
        exchange.require_json()
        latest = exchange.began + self._timeout_ms / 1000
        body, much = bulk.parse(await exchange.body(self._max_body_bytes, latest))
        name, parameters, timeout_ms = self._envelope(body)
        task = self.tasks.get(name)
        if task is None:
            raise faults.unknown_task(name)
        exchange.task = name
        exchange.service = runtime or task.owner
        client = exchange.client
        # Before anything of the parameters is looked at. Nearly every key may do nearly everything.
        if task.admin or (client is not None and not client.scopes.allows(name)):
            await self._authority.permit(client, name, admin=task.admin, request_id=exchange.request_id)
        if much:
            bulk.check(task.parameters.DESCRIPTOR, parameters, "parameters")
        request = task.read({} if parameters is None else parameters)
        call = self._callers.get(name)
        if call is None:
            raise caller.no_target(task.owner)
        if task.admin and client is not None:
            await self._authority.begin(client, name, subject_of(request), exchange.request_id)
        # The budget began with the request, not with the call.
        deadline.begin(exchange.began + timeout_ms / 1000)
        accept = exchange.accept() if exchange.doubtful else exchange.headers.get(b"accept", b"")
        if b"event-stream" in accept.lower() and _wants_events(accept, task, exchange):
            return await self._stream(task, request, timeout_ms, exchange)
        try:
            response, attempts = await call(request)
        except MeshError as error:
            raise _told(error, task, timeout_ms) from error
        if task.lists and json_codec.is_long(response, task.lists):
            answer: dict[str, Any] = {"result": await written(response)}
        else:
            answer = {"result": json_codec.to_dict(response)}
        degraded = task.degraded(response)
        if degraded is not None:
            answer["degraded"] = degraded
        return answer, attempts

    async def _stream(self, task: Task, request: Message, timeout_ms: float, exchange: Exchange) -> Answer:
        """The events of the task, of which the first has come. Raises MeshErrors."""
        call = self._stream_callers[task.name]
        stream = call.stream
        cursor = _last_event_id(exchange, stream.max_cursor)
        events = EventStream(
            lambda after: call(request, after),
            stream,
            cursor,
            call.resume,
            lambda error: _told(error, task, timeout_ms, stream),
        )
        try:
            await events.begin()
        except BaseException:
            await events.aclose()
            raise
        until = exchange.began + timeout_ms / 1000 + _LAST_WORD_S
        return Answer(200, b"", CONTENT_TYPE, [*HEADERS], events, until)

    def _envelope(self, body: object) -> tuple[str, object, float]:
        """Task, parameters and timeout in milliseconds of a body. Raises InvalidArgument."""
        if type(body) is not dict:
            raise _invalid("", f"must be an object, found {json_codec.describe(body)}")
        name = body.get("task")
        timeout_ms = body.get("timeout_ms")
        if type(name) is str and timeout_ms is None and len(body) <= 2 and _FIELDS.issuperset(body):
            return name, body.get("parameters"), self._timeout_ms
        violations = []
        if type(name) is not str:
            violations.append(FieldViolation("task", f"must be text, found {json_codec.describe(name)}"))
        if timeout_ms is None:
            timeout_ms = self._timeout_ms
        elif type(timeout_ms) not in (int, float) or not 0 < timeout_ms <= MAX_TIMEOUT_MS:
            found = json_codec.describe(timeout_ms)
            wanted = f"must be a number above 0, at most {MAX_TIMEOUT_MS}"
            violations.append(FieldViolation("timeout_ms", f"{wanted}, found {found}"))
        for key in body:
            if key not in _FIELDS:
                shown = key[:40].encode("utf-8", "replace").decode()
                violations.append(FieldViolation(shown, "is not a known field"))
        if violations:
            raise json_codec.invalid_fields(violations[: json_codec.MAX_VIOLATIONS])
        return name, body.get("parameters"), timeout_ms  # type: ignore[return-value]


def _told(error: MeshError, task: Task, timeout_ms: float, stream: Stream | None = None) -> MeshError:
    """An error of the call as the client sees it."""
    if isinstance(error, DeadlineExceeded) and not error.from_peer:
        # Of the transport: who asked knows better how long the time was.
        return faults.too_late(timeout_ms)
    return task.translate(error, stream)


def _wants_events(accept: bytes, task: Task, exchange: Exchange) -> bool:
    """Raises the fault for 406 if nothing but events will do and there are none."""
    wanted = preference(accept)
    if not wanted.events:
        return False
    if task.stream is None:
        why = f"the task {task.name} has no events"
    elif not exchange.chunked:
        why = "events are sent over HTTP/1.1 only"
    else:
        return wanted.events >= wanted.json
    if not wanted.json:
        raise faults.not_acceptable(why)
    return False


def _last_event_id(exchange: Exchange, limit: int) -> str:
    """After which event the stream goes on; empty: from its beginning. Raises the fault for 400."""
    given = exchange.headers.get(b"last-event-id", b"")
    if not given:
        return ""
    if len(given) > limit or _VISIBLE.fullmatch(given) is None:
        raise faults.last_event_id_invalid(limit)
    return given.decode("ascii")


def _invalid(field: str, description: str) -> MeshError:
    return json_codec.invalid_fields([FieldViolation(field, description)])
