"""Hooks of one's own run around each task of a real server, as they do around an agent's actions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from mesh_rig import (
    HANG_S,
    Eta,
    Mesh,
    Predict,
    Request,
    Response,
    Stub,
    answer,
    error_of,
    mesh,
    request,
)
from waymesh.eta.v1 import eta_service_pb2
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh import errors
from services.mesh.feedback import (
    Action,
    DispatchResult,
    FeedbackPipeline,
    Hooks,
    create_dispatcher,
    recorded,
)
from services.mesh.feedback.outcome import status_name
from services.mesh.feedback.spool import Spool

TASK = "predict_eta"


class Served:
    """An eta whose tasks are recorded and hooked, on a server of its own."""

    def __init__(self, mesh: Mesh, folder: Path) -> None:
        self.hooks = Hooks()
        self.said: list[str] = []
        self.pipeline = FeedbackPipeline(send=self._send, spool=Spool(folder))
        self._mesh = mesh

    async def stub(self, predict: Predict = answer, **options: Any) -> Stub:
        service = eta_service_pb2.DESCRIPTOR.services_by_name["EtaService"]
        servicer = recorded(
            Eta(predict), service, self.pipeline, self._mesh.telemetry, hooks=self.hooks, **options
        )
        return self._mesh.stub(await self._mesh.serve(servicer))

    async def events(self) -> list[OutcomeEvent]:
        return (await self.pipeline.get_recent_events(100))[::-1]

    async def left(self) -> tuple[str, OutcomeEvent]:
        """The one outcome that was left, and its status."""
        (event,) = await self.events()
        return status_name(event.status), event

    @staticmethod
    async def _send(_events: object) -> None:
        raise AssertionError("nothing runs that would send")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with mesh() as running:
        yield Served(running, tmp_path)


async def test_hooks_see_the_task_and_what_came_of_it(served: Served) -> None:
    seen: list[Any] = []

    async def pre(action: Action) -> None:
        seen.append(action)

    def post(action: Action, result: DispatchResult, event: OutcomeEvent) -> None:
        seen.extend((action, result))
        event.metadata["hook"] = "password=hunter2"

    stub = await served.stub()
    served.hooks.add_pre_hook(pre)  # they may be added later
    served.hooks.add_post_hook(post)
    assert await stub.PredictEta(request("order_7")) == Response()

    before, after, result = seen
    status, event = await served.left()
    assert before is after
    assert (before.agent_name, before.action_type, before.input_data) == ("eta", TASK, request("order_7"))
    assert (result.status, result.output, result.error, result.ok) == ("success", Response(), None, True)
    assert (event.event_id, event.run_id) == (result.event_id, result.run_id)
    assert (before.run_id, before.context["correlation_id"]) == (event.run_id, event.correlation_id)
    assert (status, event.action_type) == ("success", TASK)
    assert event.metadata["hook"] == "password=[redacted]"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.PermissionDenied("not you"), errors.PermissionDenied),
        (errors.FailedPrecondition("not now"), errors.FailedPrecondition),
        (ValueError("hunter2"), errors.Internal),
    ],
    ids=repr,
)
async def test_what_a_pre_hook_raises_fails_the_task(
    served: Served, error: Exception, told: type[errors.MeshError]
) -> None:
    called = []

    async def predict(message: Request, context: Any) -> Response:
        called.append(message)
        return Response()

    def pre(_action: Action) -> None:
        raise error

    served.hooks.add_pre_hook(pre)
    served.hooks.add_post_hook(lambda _action, result, _event: served.said.append(result.status))
    stub = await served.stub(predict)
    with pytest.raises(told) as raised:
        await stub.PredictEta(request())
    assert type(raised.value) is told
    assert "hunter2" not in str(raised.value)
    status, event = await served.left()
    assert (called, served.said, status) == ([], ["failure"], "failure")
    assert event.error_type == type(error).__name__


async def test_what_a_post_hook_raises_is_noted_and_changes_nothing_else(served: Served) -> None:
    def failing(_action: Action, _result: DispatchResult, _event: OutcomeEvent) -> None:
        raise RuntimeError("token=hunter2")

    served.hooks.add_post_hook(failing)
    served.hooks.add_post_hook(lambda _action, result, _event: served.said.append(result.status))
    stub = await served.stub()
    assert await stub.PredictEta(request()) == Response()
    status, event = await served.left()
    assert (status, served.said) == ("success", ["success"])
    assert event.metadata["post_hook_error"] == "RuntimeError: token=[redacted]"


async def test_a_failed_task_goes_to_post_hooks_and_to_the_caller(served: Served) -> None:
    served.hooks.add_post_hook(lambda _action, result, _event: served.said.append(repr(result.error)))
    stub = await served.stub(error_of(grpc.StatusCode.NOT_FOUND))
    with pytest.raises(errors.NotFound):
        await stub.PredictEta(request())
    status, event = await served.left()
    assert (status, event.error_type) == ("failure", "NotFound")
    assert served.said[0].startswith("NotFound")


@pytest.mark.parametrize("place", ["pre", "post"])
async def test_a_caller_who_goes_away_ends_a_hook(served: Served, place: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hook(*_given: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    add: Callable[[Any], None] = getattr(served.hooks, f"add_{place}_hook")
    add(hook)
    stub = await served.stub()
    call = asyncio.ensure_future(stub.PredictEta(request()))
    async with asyncio.timeout(HANG_S):
        await begun.wait()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        await ended.wait()
        while not await served.events():
            await asyncio.sleep(0.005)
    status, _event = await served.left()
    assert status == {"pre": "cancelled", "post": "success"}[place]


async def test_tasks_that_leave_no_outcome_have_hooks_all_the_same(served: Served) -> None:
    served.hooks.add_post_hook(lambda _action, result, _event: served.said.append(result.status))
    stub = await served.stub(without={TASK})
    await stub.PredictEta(request())
    assert served.said == ["success"]
    assert await served.events() == []


async def test_without_hooks_nothing_is_made_for_them(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_given: object) -> None:
        raise AssertionError("there are no hooks")

    monkeypatch.setattr("services.mesh.feedback.tasks.Action", never)
    monkeypatch.setattr("services.mesh.feedback.tasks.DispatchResult", never)
    stub = await served.stub()
    assert await stub.PredictEta(request()) == Response()
    assert [event.action_type for event in await served.events()] == [TASK]


async def test_a_dispatcher_and_a_servicer_may_share_their_hooks(served: Served) -> None:
    dispatcher = create_dispatcher(served.pipeline, hooks=served.hooks)
    dispatcher.add_pre_hook(lambda action: served.said.append(action.action_type))

    async def agent(given: object, _context: object) -> object:
        return given

    stub = await served.stub()
    await stub.PredictEta(request())
    await dispatcher.dispatch(agent, "think")
    assert served.said == [TASK, "think"]
