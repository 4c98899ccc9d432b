"""ask: a question in words, answered by a model with tools, or by the engines that the question points at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from grpc import StatusCode
from waymesh.agent.v1.run_pb2 import STEP_KIND_TOOL, RunStep
from waymesh.agent.v1.task_pb2 import AskRequest, AskResponse, RunOptions

from services.agents import engines
from services.agents.journal import Journal
from services.agents.loop import Brief
from services.agents.tasks.context import Context
from services.agents.tools import Scope, Toolbox, ToolOutcome
from services.agents.tools.scope import is_plain_id

NAME: Final = "ask"
AGENT: Final = "dispatcher"
# The engines' own answer takes calls to them, all at once. In seconds.
ENGINES_S: Final = 1.0
# With such an error whoever was asked to change something has refused; with any other it may be done.
_NOT_DONE: Final = frozenset(
    code.value[0]
    for code in (
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNIMPLEMENTED,
    )
)


def scope_of(request: AskRequest, scope: Scope) -> None:
    """What the question and its options name may be looked at."""
    allow(request.options, scope)
    scope.words = request.question


def allow(options: RunOptions, scope: Scope) -> None:
    """What options allow."""
    scope.order_ids.update(options.order_ids)
    scope.driver_ids.update(options.driver_ids)
    scope.allow_changes = options.allow_changes


def named(options: RunOptions) -> dict[str, object]:
    """What options name, as a model is told: it can ask tools about nothing that it does not know of."""
    ids = {"order_ids": options.order_ids, "driver_ids": options.driver_ids}
    return {
        field: plain for field, given in ids.items() if (plain := [one for one in given if is_plain_id(one)])
    }


async def run(request: AskRequest, context: Context) -> AskResponse:
    """Raises nothing of its own."""

    async def by_engines() -> str:
        return await engines_words(request.question, context)

    words = await context.words(
        Brief(NAME, request.question, given=named(request.options)), by_engines, engine_s=ENGINES_S
    )
    journal = context.journal
    return AskResponse(
        run_id=context.run_id,
        answer=words.text,
        evidence=journal.evidence,
        usage=journal.usage,
        degradation=words.degradation,
    )


async def engines_words(question: str, context: Context) -> str:
    """What the engines have to say to a question."""
    journal = context.journal
    # Before it gave up, a model may have done what it was asked to.
    changed = any(
        "changed" in step.result.fields and step.result["changed"] is True
        for step in journal.steps
        if step.HasField("result")
    )
    unsure = context.scope.allow_changes and any(map(_may_have_changed, journal.steps))
    noted = _Noted(context.toolbox, journal)
    text, _ = await engines.answer(question, context.scope, noted, changed=changed, may_have_changed=unsure)
    return text


def _may_have_changed(step: RunStep) -> bool:
    """Whether a change was begun and nobody has said what became of it: the engine may have made it."""
    if step.kind != STEP_KIND_TOOL or step.HasField("result") or step.error.code in _NOT_DONE:
        return False
    # Only tools that change things can be told not to. A model may have written nonsense instead.
    return "dry_run" in step.arguments.fields and step.arguments["dry_run"] not in (True, None)


@dataclass(frozen=True, slots=True)
class _Noted:
    """Tools whose every use is told as it begins and as it ends."""

    toolbox: Toolbox
    journal: Journal

    async def use(self, name: str, arguments: Mapping[str, Any], scope: Scope) -> ToolOutcome:
        """What came of it. Never raises but CancelledError."""
        step = self.journal.tool_begins(name, arguments)
        outcome = await self.toolbox.use(name, arguments, scope)
        self.journal.tool_answered(step, outcome)
        return outcome
