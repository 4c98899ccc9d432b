"""What is recorded belongs to others, whose own code may fail while it is looked at: recording does not."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from recorder_rig import idle_pipeline
from waymesh.feedback.v1 import feedback_service_pb2
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus

from services.mesh import json_codec
from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument
from services.mesh.feedback import Action, DispatchResult, FeedbackPipeline, create_dispatcher, recorded
from services.mesh.feedback.outcome import UNREADABLE, outcome, without_secrets
from services.mesh.redact import MASK
from services.mesh.telemetry import Telemetry

SECRETS = "password=hunter2 postgres://u:hunter3@db/x \0"


class Mute:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class EndOfProcess(BaseException):
    pass


class Closed(Mapping[str, Any]):
    """A mapping that cannot be looked into."""

    def __getitem__(self, key: str) -> Any:
        raise OSError("closed")

    def __iter__(self) -> Iterator[str]:
        raise OSError("closed")

    def __len__(self) -> int:
        raise OSError("closed")


class Agent:
    """Whose name cannot be read."""

    name: Any = Mute()
    agent_type = Mute()

    async def run(self, input_data: Any, context: Mapping[str, Any]) -> Any:
        return input_data

    async def __call__(self, input_data: Any, context: Mapping[str, Any]) -> Any:
        return input_data


@pytest.fixture
def pipeline(tmp_path: Path) -> FeedbackPipeline:
    return idle_pipeline(tmp_path)


async def echo(input_data: Any, context: Mapping[str, Any]) -> Any:
    return input_data


async def only(pipeline: FeedbackPipeline) -> OutcomeEvent:
    [event] = await pipeline.get_recent_events(10)
    check(event)
    return event


@pytest.mark.parametrize(
    "given", [Mute(), Closed(), {"a": Closed()}, [Mute()], 10**5000, {Mute(): 1}], ids=lambda _: ""
)
async def test_an_output_that_cannot_be_read_is_handed_on_and_recorded_as_such(
    pipeline: FeedbackPipeline, given: Any
) -> None:
    result = await create_dispatcher(pipeline).dispatch(echo, "work", given)
    assert (result.status, result.output) == ("success", given)
    event = await only(pipeline)
    assert event.status == OutcomeStatus.OUTCOME_STATUS_SUCCESS
    assert UNREADABLE in str(event.output)
    assert list(event.metadata["unreadable"]) == ["input", "output"]
    assert pipeline.unreadable == 1


async def test_what_can_be_read_beside_it_is_recorded(pipeline: FeedbackPipeline) -> None:
    await create_dispatcher(pipeline).dispatch(echo, "work", {"good": 1, "bad": Mute()})
    assert dict((await only(pipeline)).output) == {"good": 1, "bad": UNREADABLE}


async def test_an_error_that_cannot_be_read_is_a_failure_with_its_type(pipeline: FeedbackPipeline) -> None:
    async def fails(input_data: Any, context: Mapping[str, Any]) -> Any:
        raise MuteError

    result = await create_dispatcher(pipeline).dispatch(fails, "work")
    assert isinstance(result.error, MuteError)
    event = await only(pipeline)
    assert (event.error_type, event.error_message) == ("MuteError", UNREADABLE)
    assert "Traceback" in event.stack_trace


async def test_names_links_and_tags_that_cannot_be_read_do_no_harm(pipeline: FeedbackPipeline) -> None:
    context = {name: Mute() for name in ("run_id", "correlation_id", "workflow_id", "parent_event_id")}
    tags: Any = ["good", Mute(), 7]
    result = await create_dispatcher(pipeline).dispatch(Agent(), "work", 1, context, tags)
    assert result.ok
    event = await only(pipeline)
    assert (event.agent_name, event.agent_type) == (UNREADABLE, UNREADABLE)
    assert list(event.tags) == ["good", UNREADABLE, "7"]


async def test_a_post_hook_whose_error_cannot_be_read_changes_nothing(pipeline: FeedbackPipeline) -> None:
    def hook(*_: object) -> None:
        raise MuteError

    dispatcher = create_dispatcher(pipeline)
    dispatcher.add_post_hook(hook)
    assert (await dispatcher.dispatch(echo, "work", 1)).ok
    assert (await only(pipeline)).metadata["post_hook_error"] == f"MuteError: {UNREADABLE}"


async def test_who_leaves_while_a_hook_runs_leaves_an_outcome(pipeline: FeedbackPipeline) -> None:
    inside = asyncio.Event()

    async def hook(*_: object) -> None:
        inside.set()
        await asyncio.Event().wait()

    dispatcher = create_dispatcher(pipeline)
    dispatcher.add_post_hook(hook)
    task = asyncio.create_task(dispatcher.dispatch(echo, "work", 1))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await only(pipeline)).status == OutcomeStatus.OUTCOME_STATUS_SUCCESS


async def test_an_agent_that_ends_the_process_leaves_an_outcome(pipeline: FeedbackPipeline) -> None:
    async def ends(input_data: Any, context: Mapping[str, Any]) -> Any:
        raise EndOfProcess

    with pytest.raises(EndOfProcess):
        await create_dispatcher(pipeline).dispatch(ends, "work")
    assert (await only(pipeline)).error_type == "EndOfProcess"


class Servicer:
    """One task that answers, and one that fails."""

    async def ListOutcomes(self, request: Any, context: Any) -> Any:
        if request.agent_name:
            raise InvalidArgument("no")
        return feedback_service_pb2.ListOutcomesResponse()


@pytest.mark.parametrize("agent", ["", "wrong"])
async def test_an_answer_is_not_replaced_by_what_goes_wrong_when_it_is_recorded(
    pipeline: FeedbackPipeline, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"]
    others = [m.name for m in service.methods if m.name != "ListOutcomes"]
    servicer = Servicer()
    for name in others:
        setattr(servicer, name, None)
    recorded(servicer, service, pipeline, Telemetry("test"))

    def broken(_event: OutcomeEvent) -> None:
        raise RuntimeError("the recorder is broken")

    monkeypatch.setattr(pipeline, "record_clean", broken)
    request = feedback_service_pb2.ListOutcomesRequest(agent_name=agent)
    if agent:
        with pytest.raises(InvalidArgument):
            await servicer.ListOutcomes(request, None)
    else:
        answer = await servicer.ListOutcomes(request, None)
        assert answer == feedback_service_pb2.ListOutcomesResponse()
    assert pipeline.dropped == 1


async def test_a_request_with_a_time_that_json_has_not_is_recorded_without_it(
    pipeline: FeedbackPipeline,
) -> None:
    service = feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"]
    servicer = Servicer()
    for method in service.methods:
        if method.name != "ListOutcomes":
            setattr(servicer, method.name, None)
    recorded(servicer, service, pipeline, Telemetry("test"))
    request = feedback_service_pb2.ListOutcomesRequest()
    request.start_time.seconds = 10**15
    await servicer.ListOutcomes(request, None)
    assert dict((await only(pipeline)).input) == {"value": UNREADABLE}


def hidden(event: OutcomeEvent) -> bool:
    text = str(event)
    return "hunter" not in text and "\\000" not in text and "\0" not in text


async def test_the_error_of_a_post_hook_is_recorded_without_secrets(pipeline: FeedbackPipeline) -> None:
    def hook(*_: object) -> None:
        raise RuntimeError(SECRETS)

    dispatcher = create_dispatcher(pipeline)
    dispatcher.add_post_hook(hook)
    await dispatcher.dispatch(echo, "work", 1)
    event = await only(pipeline)
    assert hidden(event)
    assert event.metadata["post_hook_error"].startswith("RuntimeError: password=[redacted] postgres://u:")


async def test_what_a_post_hook_adds_is_recorded_without_secrets(pipeline: FeedbackPipeline) -> None:
    def hook(_action: Action, _result: DispatchResult, event: OutcomeEvent) -> None:
        event.tags.append(SECRETS)
        event.metadata.update({"api_key": "hunter2", "note": SECRETS})
        event.error_type = SECRETS

    dispatcher = create_dispatcher(pipeline)
    dispatcher.add_post_hook(hook)
    await dispatcher.dispatch(echo, "work", 1)
    event = await only(pipeline)
    assert hidden(event)
    assert event.metadata["api_key"] == MASK


async def test_an_event_made_by_others_is_recorded_without_secrets(pipeline: FeedbackPipeline) -> None:
    event = outcome_of_a_moment()
    event.error_message = event.stack_trace = event.agent_type = SECRETS
    event.workflow_id = event.correlation_id = "token=hunter2"
    event.output.update({"secret": "hunter2"})
    before = OutcomeEvent.FromString(event.SerializeToString())
    pipeline.record_outcome(event)
    assert event == before
    assert hidden(await only(pipeline))


async def test_names_and_keys_are_recorded_without_secrets(pipeline: FeedbackPipeline) -> None:
    given = {b"password": "hunter2", SECRETS: 1, ("api_key",): "hunter2"}
    context = {"run_id": SECRETS, "correlation_id": SECRETS, "workflow_id": SECRETS}
    await create_dispatcher(pipeline).dispatch(echo, SECRETS, given, context, [SECRETS])
    assert hidden(await only(pipeline))


@pytest.mark.parametrize("wrap", [lambda inner: {"a": inner}, lambda inner: [inner]])
async def test_what_is_nested_deeply_can_be_sent_again(pipeline: FeedbackPipeline, wrap: Any) -> None:
    given: Any = 1
    for _ in range(100):
        given = wrap(given)
    await create_dispatcher(pipeline).dispatch(echo, "work", given)
    event = await only(pipeline)
    assert json_codec.decode(OutcomeEvent, json_codec.encode(event)) == event
    assert without_secrets(event) == event
    request = feedback_service_pb2.RecordOutcomesRequest(events=[event])
    assert feedback_service_pb2.RecordOutcomesRequest.FromString(request.SerializeToString()) == request


def outcome_of_a_moment() -> OutcomeEvent:
    from datetime import UTC, datetime

    return outcome(
        agent_name="a", agent_type="b", action_type="c", started=datetime.now(UTC), duration_ms=1.0, status=1
    )
