"""Several agents on one task, undone together if one of them fails.

In a sequence each agent gets the output of the one before; after a failure those behind it do not run. In
parallel all get the task; when one fails the others are not cancelled but awaited, for only what has ended
is known well enough to be undone. Then, newest first, every agent that ended well and has a method
`compensate(output, context)` is asked to undo what it did, each with an event of its own; one that fails at
that does not keep the rest from it. The same happens if the caller goes away: the undoing is not cancelled.
An agent that failed or was cancelled itself is not asked: it knows best how far it came.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from services.mesh.feedback import outcome
from services.mesh.feedback.actions import Action, DispatchResult, Settled
from services.mesh.feedback.agents import Agent, Run, name_of, run_of, type_of
from services.mesh.feedback.outcome import new_id

COMPENSATE: Final = "compensate"

Settle = Callable[[Action, Run | None], Awaitable[Settled]]


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """What came of a workflow: one entry `{agent, status, event_id}` for each agent that ran.

    Those of compensations follow with `action: compensate`. `status` is that of the first agent, in the order
    given, that failed; else `partial` if one did a part.
    """

    workflow_id: str
    status: str
    outputs: tuple[dict[str, str], ...]
    results: tuple[DispatchResult, ...] = field(repr=False, default=())
    compensations: tuple[DispatchResult, ...] = field(repr=False, default=())

    async def durable(self) -> bool:
        """Waits until all events are acknowledged: True; False if one is lost."""
        return all([await result.durable() for result in (*self.results, *self.compensations)])


class Workflow:
    """One run of agents on one task. `context` may name `workflow_id` and `parent_event_id`."""

    def __init__(
        self,
        settle: Settle,
        agents: Sequence[Agent],
        task: Any,
        tags: tuple[str, ...],
        context: Mapping[str, Any],
    ) -> None:
        self.id = outcome.as_text(context.get("workflow_id")) or new_id()
        self._settle = settle
        self._agents = agents
        self._task = task
        self._tags = tags
        self._context = {**context, "workflow_id": self.id}
        self._action = _action_of(task)
        # In the order in which they ended.
        self._done: list[tuple[Agent, DispatchResult]] = []
        self._undone: list[tuple[Agent, DispatchResult]] = []

    async def run(self, *, parallel: bool) -> WorkflowResult:
        """Raises only what ends the caller too, CancelledError above all, once everything is undone."""
        if parallel:
            results, leaving = await self._all_at_once()
        else:
            results, leaving = await self._one_by_one()
        failed = next((result for _, result in results if not result.ok), None)
        if failed is not None or leaving is not None:
            cancelled = await _ended([asyncio.create_task(self._undo())])
            leaving = leaving or cancelled
        if leaving is not None:
            raise leaving
        partial = any(result.status == "partial" for _, result in results)
        status = failed.status if failed is not None else "partial" if partial else "success"
        entries = [_entry(agent, result) for agent, result in results]
        entries += [{**_entry(agent, result), "action": COMPENSATE} for agent, result in self._undone]
        return WorkflowResult(
            self.id,
            status,
            tuple(entries),
            tuple(result for _, result in results),
            tuple(result for _, result in self._undone),
        )

    async def _one_by_one(self) -> tuple[list[tuple[Agent, DispatchResult]], BaseException | None]:
        given, context = self._task, self._context
        for agent in self._agents:
            settled = await self._step(agent, self._action, given, context, run_of(agent))
            self._done.append((agent, settled.result))
            if settled.leaving is not None or not settled.result.ok:
                return self._done, settled.leaving
            given = settled.result.output
            context = {**self._context, "parent_event_id": settled.result.event_id}
        return self._done, None

    async def _all_at_once(self) -> tuple[list[tuple[Agent, DispatchResult]], BaseException | None]:
        async def step(agent: Agent) -> Settled:
            settled = await self._step(agent, self._action, self._task, self._context, run_of(agent))
            self._done.append((agent, settled.result))
            return settled

        tasks = [asyncio.create_task(step(agent)) for agent in self._agents]
        leaving: BaseException | None = await _ended(tasks, cancel=True)
        results: list[tuple[Agent, DispatchResult]] = []
        for agent, task in zip(self._agents, tasks, strict=True):
            if task.cancelled():  # before it began
                continue
            result, its_leaving = task.result()
            results.append((agent, result))
            # One that cancels itself has failed; it is not the caller who goes.
            if leaving is None and not isinstance(its_leaving, asyncio.CancelledError):
                leaving = its_leaving
        return results, leaving

    async def _undo(self) -> None:
        for agent, result in reversed(self._done):
            undo = run_of(agent, COMPENSATE) if result.ok else None
            if undo is not None:
                context = {**self._context, "parent_event_id": result.event_id}
                settled = await self._step(agent, COMPENSATE, result.output, context, undo)
                self._undone.append((agent, settled.result))

    def _step(
        self, agent: Agent, action: str, given: Any, context: Mapping[str, Any], run: Run | None
    ) -> Awaitable[Settled]:
        return self._settle(
            Action(
                agent_name=name_of(agent),
                agent_type=type_of(agent),
                action_type=action,
                input_data=given,
                context=context,
                run_id=new_id(),
                tags=self._tags,
            ),
            run,
        )


async def _ended(
    tasks: Sequence[asyncio.Task[Any]], *, cancel: bool = False
) -> asyncio.CancelledError | None:
    """Waits until tasks have ended. The cancel that came meanwhile, which they share if `cancel` says so."""
    cancelled = None
    while any(not task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error
            for task in tasks if cancel else ():
                task.cancel()
    return cancelled


def _action_of(task: Any) -> str:
    try:
        return outcome.as_text(getattr(task, "action_type", None)) or "run"
    except Exception:  # a property of the task's own
        return "run"


def _entry(agent: Agent, result: DispatchResult) -> dict[str, str]:
    return {"agent": name_of(agent), "status": result.status, "event_id": result.event_id}
