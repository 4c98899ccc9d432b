"""Every task of a servicer leaves an outcome: the recorder around RPCs, with no line in the servicer."""

import time
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus
from waymesh.task.v1 import task_pb2

from services.mesh import json_codec, logs, principal, tenancy
from services.mesh.feedback import outcome
from services.mesh.feedback.actions import Action, DispatchResult
from services.mesh.feedback.dispatcher import is_callers, status_of
from services.mesh.feedback.hooks import Hooks
from services.mesh.feedback.outcome import Links
from services.mesh.feedback.pipeline import FeedbackPipeline
from services.mesh.telemetry import Telemetry

Servicer = TypeVar("Servicer")
Handler = Callable[[Any, Any], Awaitable[Any]]

# Requests and answers above this many bytes are left out of their outcome.
_MAX_CAPTURED_BYTES: Final = 4_096


def recorded(
    servicer: Servicer,
    service: ServiceDescriptor,
    pipeline: FeedbackPipeline,
    telemetry: Telemetry,
    *,
    agent_type: str = "engine",
    capture: bool = True,
    without: Collection[str] = (),
    untouched: Collection[str] = (),
    hooks: Hooks | None = None,
) -> Servicer:
    """The same servicer; each of its RPCs that is a task is counted now and leaves one outcome.

    Without `capture` no outcome holds what was asked or answered, nor the text of a caller's own error.

    Those in `without` are counted only; those in `untouched` not even that, since they leave outcomes of
    their own. The outcome's agent is the telemetry's service, its action the task's
    name. A caller's fault is a failure of severity warning; a degraded answer is `partial`.

    `hooks` run around each task, those in `without` included, with the request as the action's input and the
    answer as the result's output; they may be added later. What a pre hook raises is what the caller gets: a
    MeshError as it is, anything else as INTERNAL.
    """
    hooks = Hooks() if hooks is None else hooks
    for method in service.methods:
        task = method.GetOptions().Extensions[task_pb2.task]
        if not task.name or task.name in untouched:
            continue
        bare: Handler = getattr(servicer, method.name)
        leaves = task.name not in without
        recorder = _Recorder(method, task.name, bare, pipeline, telemetry, agent_type, capture, leaves, hooks)
        setattr(servicer, method.name, recorder)
    return servicer


class _Recorder:
    """One RPC's handler and what it leaves."""

    def __init__(
        self,
        method: MethodDescriptor,
        task: str,
        bare: Handler,
        pipeline: FeedbackPipeline,
        telemetry: Telemetry,
        agent_type: str,
        capture: bool,
        leaves: bool,
        hooks: Hooks,
    ) -> None:
        self._hooks = hooks
        self._leaves = leaves
        self._task = task
        self._bare = bare
        self._pipeline = pipeline
        self._telemetry = telemetry
        self._agent_type = agent_type
        self._capture = capture
        self._sessions = telemetry.active_sessions.labels(telemetry.service)
        self._duration = telemetry.agent_duration.labels(telemetry.service)
        self._may_degrade = "degradation" in method.output_type.fields_by_name

    async def __call__(self, request: Message, context: Any) -> Any:
        started, began = datetime.now(UTC), time.monotonic()
        response: Any = None
        error: BaseException | None = None
        action: Action | None = None
        self._sessions.inc()
        try:
            if self._hooks:
                action = self._action(request)
                await self._hooks.before(action)
            response = await self._bare(request, context)
            return response
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._sessions.dec()
            duration_s = time.monotonic() - began
            if action is not None:
                await self._leave_to_hooks(action, response, error, started, duration_s)
            else:
                try:
                    status = self._count(response, error, duration_s)
                    if self._leaves and self._pipeline.enabled:
                        event = self._event(request, response, error, started, duration_s, status)
                        self._pipeline.record_clean(event)
                except Exception:  # the answer is worth more than what is said of it
                    self._pipeline.lost(self._task)

    async def _leave_to_hooks(
        self,
        action: Action,
        response: Any,
        error: BaseException | None,
        started: datetime,
        duration_s: float,
    ) -> None:
        """Raises only what ends the caller, too, once the outcome is recorded."""
        gone: BaseException | None = None
        try:
            status = self._count(response, error, duration_s)
            event = self._event(
                action.input_data, response, error, started, duration_s, status, action.run_id
            )
            result = DispatchResult(
                outcome.status_name(status), response, event.event_id, action.run_id, duration_s * 1000, error
            )
            gone = await self._hooks.after(action, result, event)
            if self._leaves:  # who knows what hooks put into it
                self._pipeline.record_outcome(event)
        except Exception:
            self._pipeline.lost(self._task)
        if gone is not None and (error is None or isinstance(error, Exception)):
            raise gone

    def _action(self, request: Message) -> Action:
        context = {"correlation_id": logs.request_id.get()}
        return Action(
            self._telemetry.service, self._agent_type, self._task, request, context, outcome.new_id(), ()
        )

    def _count(
        self, response: Any, error: BaseException | None, duration_s: float
    ) -> OutcomeStatus.ValueType:
        status = status_of(None, error)
        if error is None and self._may_degrade and response.HasField("degradation"):
            status = outcome.PARTIAL
        self._telemetry.agent_calls.labels(self._telemetry.service, outcome.status_name(status)).inc()
        self._duration.observe(duration_s)
        return status

    def _event(
        self,
        request: Message,
        response: Any,
        error: BaseException | None,
        started: datetime,
        duration_s: float,
        status: OutcomeStatus.ValueType,
        run_id: str = "",
    ) -> OutcomeEvent:
        event = outcome.outcome(
            agent_name=self._telemetry.service,
            agent_type=self._agent_type,
            action_type=self._task,
            started=started,
            duration_ms=duration_s * 1000,
            status=status,
            input_data=self._captured(request),
            output=self._captured(response),
            error=error,
            links=Links(run_id, correlation_id=logs.request_id.get()),
            expected=is_callers(error),
        )
        if not self._capture and is_callers(error):
            # It names what the caller named.
            event.ClearField("error_message")
        return event

    def _captured(self, message: Message | None) -> object:
        if message is None or not self._capture or message.ByteSize() > _MAX_CAPTURED_BYTES:
            return None
        try:
            return json_codec.to_dict(_as_asked(message))
        except ValueError:  # a time that JSON has not; the rest of the outcome is worth keeping
            return outcome.UNREADABLE


def _as_asked(message: Message) -> Message:
    """A request or an answer with ids as the caller knows them."""
    try:
        return tenancy.plain_message(message, principal.current().tenant)
    except tenancy.ForeignTenantError:  # they are plain: not every service keeps things by qualified ones
        return message
