"""A run's journal: steps and events of tools that are used at the same time, or given up."""

from waymesh.agent.v1 import run_pb2 as pb
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_ORDER_UNKNOWN

from services.agents.journal import MAX_EVIDENCE, MAX_NAME, Journal
from services.agents.llm import Attempt, Tokens
from services.agents.tools import ToolOutcome
from services.mesh.errors import NotFound


def outcome(name: str, said: str = "") -> ToolOutcome:
    error = None if said else NotFound("no", reason=ERROR_REASON_ORDER_UNKNOWN)
    return ToolOutcome(name, {}, {"said": said} if said else None, "", error, 2.5)


def test_uses_at_the_same_time_keep_their_steps_in_whatever_order_they_end() -> None:
    told: list[StreamRunResponse] = []
    journal = Journal(told.append)
    first = journal.tool_begins("get_order", {"order_id": "a"})
    second = journal.tool_begins("weather", {"order_id": "b"})
    journal.tool_answered(second, outcome("weather", "rain"))
    third = journal.tool_begins("get_order", {"order_id": "c"})
    journal.tool_answered(third, outcome("get_order"))
    journal.tool_answered(first, outcome("get_order", "it is here"))

    assert (first, second, third) == (1, 2, 3)
    assert [step.step for step in journal.steps] == [1, 2, 3]
    assert [step.arguments["order_id"] for step in journal.steps] == ["a", "b", "c"]
    assert [each.tool_call.step or -each.tool_result.step for each in told] == [1, 2, -2, 3, -3, -1]
    assert [(one.source, one.result["said"]) for one in journal.evidence] == [
        ("get_order", "it is here"),
        ("weather", "rain"),
    ]
    assert journal.usage.tool_calls == 3


def test_a_use_that_is_given_up_keeps_its_step_for_itself() -> None:
    told: list[StreamRunResponse] = []
    journal = Journal(told.append)
    given_up = journal.tool_begins("get_order", {"order_id": "a"})
    after = journal.tool_begins("get_order", {"order_id": "a"})
    journal.tool_answered(after, outcome("get_order", "it is here"))
    assert (given_up, after) == (1, 2)
    left = journal.steps[0]
    assert (left.kind, left.name, left.HasField("result"), left.HasField("error")) == (
        pb.STEP_KIND_TOOL, "get_order", False, False,
    )  # fmt: skip
    assert journal.usage.tool_calls == 1


def test_names_that_models_make_up_and_evidence_are_bounded() -> None:
    journal = Journal(lambda event: None)
    for _ in range(2 * MAX_EVIDENCE):
        journal.tool_answered(journal.tool_begins("x" * 1_000, {}), outcome("x", "y"))
    assert {len(step.name) for step in journal.steps} == {MAX_NAME}
    assert len(journal.evidence) == MAX_EVIDENCE


def test_calls_that_were_made_are_counted_and_refusals_of_our_own_are_steps_alone() -> None:
    journal = Journal(lambda event: None)
    journal.model_failed(Attempt("m", "timeout", "no answer", 900.0, Tokens(7, 3), 50))
    journal.model_failed(Attempt("m", "budget", "budget used up", 0.06, sent=False))
    usage = journal.usage
    assert (usage.model_calls, usage.input_tokens, usage.llm_latency_ms) == (1, 7, 900.0)
    assert [step.error.message for step in journal.steps] == ["timeout: no answer", "budget: budget used up"]
