"""Runs agents and records what came of it."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from waymesh.feedback.v1.outcome_pb2 import OutcomeStatus

from services.mesh import errors, logs
from services.mesh.feedback import outcome
from services.mesh.feedback.actions import Action, DispatchResult, PostHook, PreHook, Settled
from services.mesh.feedback.agents import Agent, Partial, Run, call, name_of, run_of, type_of
from services.mesh.feedback.hooks import Hooks
from services.mesh.feedback.outcome import Links, new_id, status_name
from services.mesh.feedback.pipeline import FeedbackPipeline
from services.mesh.feedback.workflow import Workflow, WorkflowResult
from services.mesh.telemetry import Telemetry

# Plain functions that run at the same time; more wait for a thread.
_THREADS: Final = 32
# As many as an event may have.
_MAX_TAGS: Final = 64
# HTTP statuses from here on are faults of ours.
_SERVER_FAULT: Final = 500


def create_dispatcher(
    pipeline: FeedbackPipeline,
    *,
    telemetry: Telemetry | None = None,
    capture: bool = True,
    timeout_s: float | None = None,
    hooks: Hooks | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> "Dispatcher":
    """A dispatcher that records to `pipeline`; without `capture` payloads stay out of the events.

    `hooks`: those it shares with others, such as the tasks of a servicer; hooks added here are theirs, too.
    """
    hooks = Hooks() if hooks is None else hooks
    return Dispatcher(
        pipeline, telemetry=telemetry, capture=capture, timeout_s=timeout_s, hooks=hooks, clock=clock
    )


class Dispatcher:
    """Runs one action or a workflow of them; each leaves one event, whatever happens."""

    def __init__(
        self,
        pipeline: FeedbackPipeline,
        *,
        telemetry: Telemetry | None,
        capture: bool,
        timeout_s: float | None,
        hooks: Hooks,
        clock: Callable[[], datetime],
    ) -> None:
        self._pipeline = pipeline
        self._telemetry = telemetry
        self._capture = capture
        self._timeout_s = timeout_s
        self._clock = clock
        self._hooks = hooks
        self._executor: Executor | None = None

    def add_pre_hook(self, hook: PreHook) -> None:
        """See Hooks."""
        self._hooks.add_pre_hook(hook)

    def add_post_hook(self, hook: PostHook, *, numbers: bool = False) -> None:
        """See Hooks."""
        self._hooks.add_post_hook(hook, numbers=numbers)

    async def dispatch(
        self,
        agent: Agent,
        action_type: str,
        input_data: Any = None,
        context: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> DispatchResult:
        """Runs the agent and records the outcome. The agent's errors are in the result, not raised.

        A cancelled caller is recorded too, and CancelledError goes on, as does what ends the process.
        `context` may name `run_id`, `correlation_id` (else that is the id of the request at hand),
        `workflow_id` and `parent_event_id`. Who needs to know that the event is durable awaits the result's
        `durable()`.
        """
        given = _context(context)
        action = Action(
            agent_name=name_of(agent),
            agent_type=type_of(agent),
            action_type=action_type,
            input_data=input_data,
            context=given,
            run_id=outcome.as_text(given.get("run_id")) or new_id(),
            tags=_tags(tags),
        )
        settled = await self._settle(action, run_of(agent))
        if settled.leaving is not None:
            raise settled.leaving
        return settled.result

    async def execute_workflow(
        self,
        agents: Sequence[Agent],
        task: Any,
        tags: Sequence[str] = (),
        *,
        parallel: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> WorkflowResult:
        """Runs agents one after the other, each on the output of the one before, or all at once on `task`.

        If one fails, or the caller goes away, what the others did is undone: see workflow.py in this folder.
        All events bear one workflow id: that of `context`, else a new one.
        """
        workflow = Workflow(self._settle, agents, task, _tags(tags), _context(context))
        return await workflow.run(parallel=parallel)

    async def _settle(self, action: Action, run: Run | None) -> Settled:
        """Does it and records it. Raises nothing: what has to be raised is told beside the result."""
        started, began = self._clock(), time.monotonic()
        output: Any = None
        error: BaseException | None = None
        telemetry = self._telemetry
        session = None if telemetry is None else telemetry.active_sessions.labels(telemetry.service)
        if session is not None:
            session.inc()
        try:
            await self._hooks.before(action)
            if run is None:
                raise TypeError(f"{action.agent_name} is no agent: it has no run and cannot be called")
            async with asyncio.timeout(self._timeout_s):
                output = await call(run, action.input_data, action.context, self._threads)
        except BaseException as raised:
            error = raised
        finally:
            if session is not None:
                session.dec()
        duration_ms = (time.monotonic() - began) * 1000
        status = status_of(output, error)
        reason = ""
        if isinstance(output, Partial):
            output, reason = output.output, output.reason
        event = outcome.outcome(
            agent_name=action.agent_name,
            agent_type=action.agent_type,
            action_type=action.action_type,
            started=started,
            duration_ms=duration_ms,
            status=status,
            input_data=action.input_data if self._capture else None,
            output=output if self._capture else None,
            error=error,
            links=_links(action),
            tags=action.tags,
            expected=is_callers(error),
            metadata={"partial": reason} if reason else None,
        )
        result = DispatchResult(
            status_name(status), output, event.event_id, action.run_id, duration_ms, error
        )
        leaving = error if not isinstance(error, Exception) else None
        gone = await self._hooks.after(action, result, event)
        leaving = leaving or gone
        # Who knows what hooks put into it.
        record = self._pipeline.record_outcome if self._hooks.change_events else self._pipeline.record_clean
        result = replace(result, receipt=record(event))
        if telemetry is not None:
            telemetry.agent_calls.labels(telemetry.service, result.status).inc()
            telemetry.agent_duration.labels(telemetry.service).observe(duration_ms / 1000)
        return Settled(result, leaving)

    def _threads(self) -> Executor:
        # Their own: an agent that does not come back must not keep others from the loop's threads.
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="agent")
        return self._executor


def status_of(output: Any, error: BaseException | None) -> OutcomeStatus.ValueType:
    """How an action ended, from what it gave back or raised."""
    if isinstance(error, asyncio.CancelledError | errors.Cancelled | GeneratorExit):
        return outcome.CANCELLED
    if isinstance(error, TimeoutError | errors.DeadlineExceeded):
        return outcome.TIMEOUT
    if error is not None:
        return outcome.FAILURE
    if isinstance(output, Partial):
        return outcome.PARTIAL
    try:
        degraded = isinstance(output, Mapping) and bool(output.get("degradation"))
    except Exception:  # an output that cannot be looked at is one all the same
        degraded = False
    return outcome.PARTIAL if degraded else outcome.SUCCESS


def is_callers(error: BaseException | None) -> bool:
    """Whether an action failed by its caller's fault, or its caller went away: a warning, without a trace."""
    if isinstance(error, errors.MeshError):
        return errors.http_status(error.code) < _SERVER_FAULT
    return isinstance(error, asyncio.CancelledError)


def _links(action: Action) -> Links:
    links = Links(action.run_id, *(action.context.get(name) for name in Links._fields[1:]))
    named = links.correlation_id
    if named is None or (isinstance(named, str) and not named):
        links = links._replace(correlation_id=logs.request_id.get())
    return links


def _context(given: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return {} if given is None else dict(given)
    except Exception:  # the action is worth more than what is said of it
        return {}


def _tags(given: Iterable[str]) -> tuple[str, ...]:
    try:
        return (given,) if isinstance(given, str) else tuple(islice(given, _MAX_TAGS))
    except Exception:
        return ()
