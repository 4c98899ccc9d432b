"""Runs agents and records what came of it."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol, runtime_checkable

from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus

from services.mesh import errors
from services.mesh.feedback import outcome
from services.mesh.feedback.outcome import Links, new_id, status_name
from services.mesh.feedback.pipeline import FeedbackPipeline
from services.mesh.telemetry import Telemetry

Run = Callable[[Any, Mapping[str, Any]], Any]


@runtime_checkable
class NamedAgent(Protocol):
    """An agent with a name of its own. `run` may be a coroutine function; a plain one runs in a thread."""

    name: str

    def run(self, input_data: Any, context: Mapping[str, Any]) -> Any: ...


Agent = NamedAgent | Run


@dataclass(frozen=True, slots=True)
class Action:
    """What is about to be done, as hooks see it."""

    agent_name: str
    agent_type: str
    action_type: str
    input_data: Any
    context: Mapping[str, Any]
    run_id: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DispatchResult:
    """What came of one action. `status` in words; `output` is None unless it succeeded or did a part."""

    status: str
    output: Any
    event_id: str
    run_id: str
    duration_ms: float
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an output."""
        return self.status in ("success", "partial")


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """What came of a workflow: one entry `{agent, status, event_id}` for each agent that ran."""

    workflow_id: str
    status: str
    outputs: tuple[dict[str, str], ...]
    results: tuple[DispatchResult, ...] = field(repr=False, default=())


PreHook = Callable[[Action], Awaitable[None] | None]
PostHook = Callable[[Action, DispatchResult, OutcomeEvent], Awaitable[None] | None]

COMPENSATE: Final = "compensate"


def create_dispatcher(
    pipeline: FeedbackPipeline,
    *,
    telemetry: Telemetry | None = None,
    capture: bool = True,
    timeout_s: float | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> "Dispatcher":
    """A dispatcher that records to `pipeline`; without `capture` payloads stay out of the events."""
    return Dispatcher(pipeline, telemetry=telemetry, capture=capture, timeout_s=timeout_s, clock=clock)


class Dispatcher:
    """Runs one action or a workflow of them; each leaves one event, whatever happens."""

    def __init__(
        self,
        pipeline: FeedbackPipeline,
        *,
        telemetry: Telemetry | None,
        capture: bool,
        timeout_s: float | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._pipeline = pipeline
        self._telemetry = telemetry
        self._capture = capture
        self._timeout_s = timeout_s
        self._clock = clock
        self._pre: list[PreHook] = []
        self._post: list[PostHook] = []

    def add_pre_hook(self, hook: PreHook) -> None:
        """`hook(action)` before each action; if it raises, the action fails with that."""
        self._pre.append(hook)

    def add_post_hook(self, hook: PostHook) -> None:
        """`hook(action, result, event)` after each action, before the event is recorded; its errors are noted
        in the event's metadata and change nothing else."""
        self._post.append(hook)

    async def dispatch(
        self,
        agent: Agent,
        action_type: str,
        input_data: Any = None,
        context: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> DispatchResult:
        """Runs the agent and records the outcome. The agent's errors are in the result, not raised.

        A cancelled caller is recorded too, and CancelledError goes on. `context` may name `run_id`,
        `correlation_id`, `workflow_id` and `parent_event_id`.
        """
        context = dict(context or {})
        action = Action(
            agent_name=name_of(agent),
            agent_type=type_of(agent),
            action_type=action_type,
            input_data=input_data,
            context=context,
            run_id=outcome.as_text(context.get("run_id")) or new_id(),
            tags=tuple(tags),
        )
        return await self._run(action, agent.run if isinstance(agent, NamedAgent) else agent)

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

        If one fails, those after it do not run, and agents that did run and have a method
        `compensate(output, context)` are asked to undo it, last first.
        """
        workflow_id = new_id()
        shared = {**(context or {}), "workflow_id": workflow_id}
        done: list[tuple[Agent, DispatchResult]] = []
        action = getattr(task, "action_type", "run")
        if parallel:
            results = await asyncio.gather(
                *(self.dispatch(agent, action, task, shared, tags) for agent in agents)
            )
            done = list(zip(agents, results, strict=True))
        else:
            given = task
            for agent in agents:
                step = {**shared, "parent_event_id": done[-1][1].event_id if done else ""}
                result = await self.dispatch(agent, action, given, step, tags)
                done.append((agent, result))
                if not result.ok:
                    break
                given = result.output
        failed = next((result for _, result in done if not result.ok), None)
        outputs = [_entry(agent, result) for agent, result in done]
        if failed is not None:
            for agent, result in reversed([pair for pair in done if pair[1].ok]):
                undo = getattr(agent, "compensate", None)
                if undo is None:
                    continue
                step = {**shared, "parent_event_id": result.event_id}
                undone = await self._run(
                    Action(
                        agent_name=name_of(agent),
                        agent_type=type_of(agent),
                        action_type=COMPENSATE,
                        input_data=result.output,
                        context=step,
                        run_id=new_id(),
                        tags=tuple(tags),
                    ),
                    undo,
                )
                outputs.append({**_entry(agent, undone), "action": COMPENSATE})
        status = "success" if failed is None else failed.status
        return WorkflowResult(workflow_id, status, tuple(outputs), tuple(result for _, result in done))

    async def _run(self, action: Action, run: Run) -> DispatchResult:
        started, began = self._clock(), time.monotonic()
        output: Any = None
        error: BaseException | None = None
        session = (
            None
            if self._telemetry is None
            else self._telemetry.active_sessions.labels(self._telemetry.service)
        )
        if session is not None:
            session.inc()
        try:
            for pre in self._pre:
                await _maybe(pre(action))
            async with asyncio.timeout(self._timeout_s):
                output = await _call(run, action.input_data, action.context)
        except BaseException as raised:
            error = raised
        finally:
            if session is not None:
                session.dec()
        duration_ms = (time.monotonic() - began) * 1000
        status = status_of(output, error)
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
            links=Links(action.run_id, *(action.context.get(name) for name in Links._fields[1:])),
            tags=action.tags,
        )
        result = DispatchResult(
            status_name(status), output, event.event_id, action.run_id, duration_ms, error
        )
        try:
            for post in self._post:
                try:
                    await _maybe(post(action, result, event))
                except Exception as failed:
                    event.metadata.update({"post_hook_error": outcome.describe(failed)})
        finally:  # a caller who goes away while a hook runs has had the action done
            if self._post:
                self._pipeline.record_outcome(event)  # who knows what they put into it
            else:
                self._pipeline.record_clean(event)
            if self._telemetry is not None:
                service = self._telemetry.service
                self._telemetry.agent_calls.labels(service, result.status).inc()
                self._telemetry.agent_duration.labels(service).observe(duration_ms / 1000)
        if error is not None and not isinstance(error, Exception):
            raise error
        return result


def name_of(agent: Agent) -> str:
    """The agent's `name`, else the name of the function or class."""
    return _attribute(agent, "name") or _attribute(agent, "__name__") or type(agent).__name__


def type_of(agent: Agent) -> str:
    """The agent's `agent_type`, else `agent`."""
    return _attribute(agent, "agent_type") or "agent"


def _attribute(agent: Agent, name: str) -> str:
    try:
        return outcome.as_text(getattr(agent, name, None))
    except Exception:  # a property of the agent's own
        return ""


def status_of(output: Any, error: BaseException | None) -> OutcomeStatus.ValueType:
    """How an action ended, from what it gave back or raised."""
    if isinstance(error, asyncio.CancelledError | errors.Cancelled):
        return outcome.CANCELLED
    if isinstance(error, TimeoutError | errors.DeadlineExceeded):
        return outcome.TIMEOUT
    if error is not None:
        return outcome.FAILURE
    try:
        degraded = isinstance(output, Mapping) and bool(output.get("degradation"))
    except Exception:  # an output that cannot be looked at is one all the same
        degraded = False
    return outcome.PARTIAL if degraded else outcome.SUCCESS


def _entry(agent: Agent, result: DispatchResult) -> dict[str, str]:
    return {"agent": name_of(agent), "status": result.status, "event_id": result.event_id}


async def _call(run: Run, input_data: Any, context: Mapping[str, Any]) -> Any:
    if inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(getattr(run, "__call__", None)):  # noqa: B004 - a callable object with an async __call__
        return await run(input_data, context)
    result = await asyncio.to_thread(run, input_data, context)
    return await result if inspect.isawaitable(result) else result


async def _maybe(result: Awaitable[None] | None) -> None:
    if inspect.isawaitable(result):
        await result
