"""Runs the task that a body names: JSON in, one RPC, JSON out."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from services.gateway import caller, faults
from services.gateway.caller import Caller
from services.gateway.exchange import Exchange
from services.gateway.settings import MAX_TIMEOUT_MS
from services.gateway.tasks import Task
from services.mesh import deadline, json_codec
from services.mesh.errors import DeadlineExceeded, FieldViolation, MeshError

# How long a long result is written before others have their turn, in seconds.
_TURN_S: Final = 0.002
_FIELDS: Final = frozenset({"task", "parameters", "timeout_ms"})


class Executor:
    """The tasks of the contracts and how each is called."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        callers: Mapping[str, Caller],
        *,
        max_body_bytes: int,
        timeout_ms: int,
    ) -> None:
        self.tasks = tasks
        self._callers = callers
        self._max_body_bytes = max_body_bytes
        self._timeout_ms = timeout_ms

    async def run(self, exchange: Exchange, runtime: str) -> tuple[dict[str, Any], int]:
        """What goes into the answer, and the attempts it took. `runtime`, if any, answers for the owner.

        The result is a dict, or its JSON where it is long.

        Raises MeshErrors, their paths from the body's root. Sets `exchange.service` once it is known.
        """
        exchange.require_json()
        latest = exchange.began + self._timeout_ms / 1000
        body = json_codec.parse(await exchange.body(self._max_body_bytes, latest))
        name, parameters, timeout_ms = self._envelope(body)
        task = self.tasks.get(name)
        if task is None:
            raise faults.unknown_task(name)
        exchange.task = name
        exchange.service = runtime or task.owner
        request = task.read({} if parameters is None else parameters)
        call = self._callers.get(name)
        if call is None:
            raise caller.no_target(task.owner)
        # The budget began with the request, not with the call.
        deadline.begin(exchange.began + timeout_ms / 1000)
        try:
            response, attempts = await call(request)
        except MeshError as error:
            if isinstance(error, DeadlineExceeded) and not error.from_peer:
                # Of the transport: who asked knows better how long the time was.
                raise faults.too_late(timeout_ms) from error
            raise task.translate(error) from error
        if task.lists and json_codec.is_long(response, task.lists):
            answer: dict[str, Any] = {"result": await _written(response)}
        else:
            answer = {"result": json_codec.to_dict(response)}
        degraded = task.degraded(response)
        if degraded is not None:
            answer["degraded"] = degraded
        return answer, attempts

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


async def _written(response: Message) -> bytes:
    """A long result as JSON. A million numbers take half a second to write, in which others want answers."""
    written = []
    until = time.monotonic() + _TURN_S
    for piece in json_codec.pieces(response):
        written.append(piece)
        if time.monotonic() > until:
            await asyncio.sleep(0)
            until = time.monotonic() + _TURN_S
    return b"".join(written)


def _invalid(field: str, description: str) -> MeshError:
    return json_codec.invalid_fields([FieldViolation(field, description)])
