"""What the engines say of changes that a model has begun, or may have made, before it gave up."""

import asyncio
import contextlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from waymesh.agent.v1.definition_pb2 import AgentSpec, Capability
from waymesh.agent.v1.task_pb2 import AskRequest, RunOptions
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TOOL_REFUSED

from services.agents.catalogue import Agent
from services.agents.journal import Journal
from services.agents.ladder import ENGINE, Ladder
from services.agents.llm import LanguageModels, ModelReply, ModelRequest, ModelSettings, Tokens, ToolUse
from services.agents.loop import Loop, Setting
from services.agents.spans import GenAi
from services.agents.tasks import ask
from services.agents.tasks.context import Context
from services.agents.tools import Scope, Toolbox, ToolOutcome
from services.agents.voice import Voice
from services.mesh import deadline
from services.mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

DONE = "Something was changed before this answer: the steps of the run show what."
MAYBE = "Something may have been changed: the steps of the run show what was tried."
NOTHING = "Nothing was changed"
DO_IT = {"order_ids": ["order_1"], "dry_run": False}
# A request to act that names no order: nothing but what was changed is to be told.
QUESTION = "Assign a driver!"


def outcome(result: dict[str, Any] | None, error: MeshError | None) -> ToolOutcome:
    return ToolOutcome("allocate_drivers", {}, result, "", error, 1.0)


async def words(*tried: tuple[dict[str, Any], ToolOutcome | None], allow_changes: bool = True) -> str:
    """The words after these uses of the tool; None: it was given up."""
    journal = Journal(lambda event: None)
    for arguments, came in tried:
        step = journal.tool_begins("allocate_drivers", arguments)
        if came is not None:
            journal.tool_answered(step, came)
    scope = Scope(words=QUESTION, allow_changes=allow_changes)
    context = cast(Context, SimpleNamespace(journal=journal, scope=scope, toolbox=None))
    return await ask.engines_words(QUESTION, context)


async def test_what_was_changed_is_told() -> None:
    assert await words((DO_IT, outcome({"changed": True}, None))) == DONE
    assert await words((DO_IT, outcome({"changed": True}, None)), (DO_IT, None)) == DONE


async def test_a_change_that_was_given_up_may_have_been_made() -> None:
    assert await words((DO_IT, None)) == MAYBE
    assert await words((DO_IT, outcome({"changed": False}, None)), (DO_IT, None)) == MAYBE


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), Unavailable("away"), Internal("a fault")])
async def test_a_change_that_nobody_answered_may_have_been_made(error: MeshError) -> None:
    assert await words((DO_IT, outcome(None, error))) == MAYBE


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("wrong"),
        NotFound("unknown"),
        FailedPrecondition("taken"),
        ResourceExhausted("used up", reason=ERROR_REASON_TOOL_REFUSED, metadata={"tool": "x"}),
    ],
)
async def test_a_change_that_was_refused_was_not_made(error: MeshError) -> None:
    assert (await words((DO_IT, outcome(None, error)))).startswith(NOTHING)


@pytest.mark.parametrize("dry_run", [True, None, ...])
async def test_who_only_asked_what_would_be_done_changed_nothing(dry_run: Any) -> None:
    arguments = {**DO_IT, "dry_run": dry_run}
    if dry_run is ...:
        del arguments["dry_run"]
    assert (await words((arguments, None))).startswith(NOTHING)


async def test_where_no_changes_are_allowed_none_may_have_been_made() -> None:
    assert (await words((DO_IT, None), allow_changes=False)).startswith(NOTHING)


class Allocating:
    """Models that have drivers allocated, and come to no more than that."""

    available = True

    async def complete(self, request: ModelRequest, **more: Any) -> ModelReply:
        use = ToolUse("1", "allocate_drivers", '{"order_ids": ["order_1"], "dry_run": false}')
        return ModelReply("", (use,), None, "m", Tokens(1, 1), 0, 1.0, False, "tool_calls")


class Route:
    """Does what it is told, and is not heard of again."""

    def __init__(self) -> None:
        self.changed = False

    async def AllocateDrivers(self, request: Any) -> Any:
        self.changed |= not request.dry_run
        await asyncio.get_running_loop().create_future()


class NoSpans:
    @contextlib.contextmanager
    def chat(self, request: ModelRequest) -> Any:
        yield SimpleNamespace(replied=lambda reply: None)

    @contextlib.contextmanager
    def tool(self, name: str) -> Any:
        yield SimpleNamespace(used=lambda outcome: None)


async def test_a_change_that_time_cuts_off_is_not_denied() -> None:
    request = AskRequest(question=QUESTION, options=RunOptions(order_ids=["order_1"], allow_changes=True))
    spec = AgentSpec(name="dispatcher", capabilities=[Capability(capability_id="allocate_drivers")])
    scope = Scope()
    ask.scope_of(request, scope)
    setting = Setting(
        agent=Agent("id", "default", 1, spec, True),
        scope=scope,
        journal=Journal(lambda event: None),
        voice=Voice(None),
        models=ModelSettings("m"),
        max_steps=4,
        ledger=None,
        fresh=False,
        today=datetime(2026, 11, 21, tzinfo=UTC),
    )
    route = Route()
    toolbox = Toolbox(None, route, None)
    loop = Loop(cast(LanguageModels, Allocating()), toolbox, cast(GenAi, NoSpans()))
    context = Context(
        run_id="r",
        workflow_id="",
        setting=setting,
        ladder=Ladder(loop),
        slot=contextlib.nullcontext,
        peers=cast(Any, None),
        toolbox=toolbox,
        dispatcher=cast(Any, None),
    )
    with deadline.budget(ask.ENGINES_S + 0.5):
        answer = await ask.run(request, context)
    assert route.changed
    assert answer.answer.startswith(MAYBE)
    assert NOTHING not in answer.answer
    assert answer.degradation.source == ENGINE
