"""What a key may be used for: decided before a request is looked at, at every door of the gateway."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from event_rig import Run, accepted, ask, begin
from gateway_rig import GPS, JSON, KEY, Reply, Rig, gateway
from key_commands import keys
from waymesh.agent.v1.agent_registry_service_pb2 import ListAgentsResponse
from waymesh.feedback.v1.alert_pb2 import SilenceAlertRequest, SilenceAlertResponse
from waymesh.feedback.v1.feedback_service_pb2_grpc import (
    FeedbackServiceServicer,
    FeedbackServiceStub,
    add_FeedbackServiceServicer_to_server,
)

from services.gateway.audit import Entry
from services.gateway.keys import ApiKey, digest_of, new_key
from services.gateway.limits import Rate
from services.mesh import errors, principal
from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry
from tests.processes import until

SILENCE = {"alert_key": "error_rate/eta", "duration_s": 60, "author": "ops"}


async def added(rig: Rig, *scopes: str, **more: Any) -> str:
    """A key with these scopes, all that is not for operators without."""
    store = rig.gateway.keys
    await until(lambda: store.store is not None, "the store is open")
    assert store.store is not None
    key = new_key()
    # Tests ask again and again: no rate is to get in between.
    often = Rate(1_000_000, 1_000_000)
    kept = ApiKey(digest_of(key.encode()), "partner", often, scopes=scopes or ("*",), **more)
    await store.store.add(kept, Entry("keys add", "test"))
    return key


def denied(reply: Reply, task: str, scope: str) -> None:
    """The one answer for what a key has no scope for."""
    assert reply.status == 403
    assert reply.json["code"] == "PERMISSION_DENIED"
    assert reply.json["reason"] == "SCOPE_MISSING"
    assert reply.json["error"] == f"this key may not call {task}: it needs the scope {scope}"
    assert reply.json["details"] == []


class Silences:
    """Answers SilenceAlert; for whom it was asked to."""

    def __init__(self) -> None:
        self.whom: list[principal.Principal] = []

    async def __call__(self, request: SilenceAlertRequest, _context: Any) -> SilenceAlertResponse:
        self.whom.append(principal.current())
        return SilenceAlertResponse(alert_key=request.alert_key)


@pytest.mark.parametrize("path", ["/execute", "/run"])
async def test_a_task_that_the_key_has_no_scope_for_is_refused_unread(database: str, path: str) -> None:
    called: list[Any] = []

    async def report(request: Any, _context: Any) -> Any:
        called.append(request)

    async with gateway({"ReportGps": report}, route={}, database_url=database) as rig:
        client = rig.client()
        key = await added(rig, "get_*", "predict_eta")
        for parameters in (GPS, {"driver_id": 1}, {"unknown": True}, [1], "text"):
            denied(
                await client.task("report_gps", parameters, path=path, key=key), "report_gps", "report_gps"
            )
        assert called == []
        assert (await client.task("get_order", {}, path=path, key=key)).status == 400


async def test_a_scope_opens_its_task_alone(database: str) -> None:
    async with gateway(database_url=database) as rig:
        client = rig.client()
        key = await added(rig, "report_gps")
        assert (await client.task("report_gps", GPS, key=key)).status == 200
        denied(await client.task("predict_eta", {}, key=key), "predict_eta", "predict_eta")
        assert (await client.task("no_such_task", {}, key=key)).status == 404


async def test_a_path_asks_for_the_scope_of_its_task(database: str) -> None:
    called = 0

    async def listed(_request: Any, _context: Any) -> Any:
        nonlocal called
        called += 1
        return ListAgentsResponse()

    async with gateway(agents={"ListAgents": listed}, database_url=database) as rig:
        client = rig.client()
        reader = {"X-API-Key": await added(rig, "list_agents"), "Content-Type": JSON}
        assert (await client.ask("GET", "/api/agents", b"", reader)).status == 200
        for method, path, task in (
            ("POST", "/api/agents", "create_agent"),
            ("DELETE", "/api/agents/x", "delete_agent"),
            ("GET", "/api/agents/x", "get_agent"),
        ):
            denied(await client.ask(method, path, b"{not json", reader), task, task)
        assert called == 1


async def test_a_stream_of_events_asks_for_the_scope_of_its_task(database: str) -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}, database_url=database) as rig:
        key = await added(rig, "get_*")
        headers = {"X-API-Key": key, "Content-Type": JSON, "Accept": "text/event-stream"}
        reply = await rig.client().ask("POST", "/execute", json.dumps(ask()).encode(), headers)
        denied(reply, "ask", "ask")
        assert run.requests == []


async def test_what_is_for_operators_needs_the_scope_admin(database: str) -> None:
    silences = Silences()
    async with gateway(feedback={"SilenceAlert": silences}, database_url=database) as rig:
        client = rig.client()
        plain = await added(rig)
        denied(await client.task("silence_alert", SILENCE, key=plain), "silence_alert", "admin")
        operator = await added(rig, "admin")
        assert (await client.task("silence_alert", SILENCE, key=operator)).status == 200
        denied(await client.task("report_gps", GPS, key=operator), "report_gps", "report_gps")
        assert (await client.task("silence_alert", SILENCE, key=KEY)).status == 200
        assert [whom.admin for whom in silences.whom] == [True, True]


async def test_a_runtime_does_nothing_that_is_for_operators(database: str) -> None:
    silences = Silences()
    async with gateway(feedback={"SilenceAlert": silences}, database_url=database) as rig:
        reply = await rig.client("agent-demo").task("silence_alert", SILENCE, path="/run", key=None)
        denied(reply, "silence_alert", "admin")
        assert silences.whom == []


async def test_an_operators_other_calls_are_made_without_his_right(database: str) -> None:
    whom = []

    async def report(_request: Any, _context: Any) -> Any:
        whom.append(principal.current().admin)
        raise errors.NotFound("enough")

    async with gateway({"ReportGps": report}, database_url=database) as rig:
        assert (await rig.client().task("report_gps", GPS, key=KEY)).status == 404
    assert whom == [False]


async def test_scopes_can_be_given_and_taken_while_requests_go_on(database: str) -> None:
    async with gateway(database_url=database) as rig:
        client = rig.client()
        key = await added(rig, "predict_eta")
        assert (await client.task("report_gps", GPS, key=key)).status == 403
        assert (await keys(database, "change", "partner", "--scope", "report_*"))[0] == 0

        async def status() -> int:
            return (await client.task("report_gps", GPS, key=key)).status

        while await status() == 403:
            pass
        assert await status() == 200
        assert client.connections == 1


async def test_a_key_has_only_so_many_requests_under_way(database: str) -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}, database_url=database) as rig:
        key = await added(rig, under_way=1)
        first = rig.client()
        run.says(accepted())
        assert (await begin(first, ask(), headers={"X-API-Key": key})).status == 200
        second = rig.client()
        reply = await second.task("report_gps", GPS, key=key)
        assert (reply.status, reply.json["reason"]) == (429, "TOO_MANY_UNDER_WAY")
        assert reply.headers["retry-after"] == "1"
        assert (await second.task("report_gps", GPS, key=KEY)).status == 200
        await first.close()
        while (await second.task("report_gps", GPS, key=key)).status == 429:
            pass


async def test_a_key_that_has_ended_is_refused_like_one_that_never_was(database: str) -> None:
    async with gateway(database_url=database) as rig:
        client = rig.client()
        key = await added(rig, expires_at=datetime.now(UTC) + timedelta(seconds=1))
        while (reply := await client.task("report_gps", GPS, key=key)).status == 200:
            pass
        stranger = await client.task("report_gps", GPS, key="wm_stranger")
        same = ("status", "reason", "error")
        assert reply.status == stranger.status == 401
        assert [reply.json.get(each) for each in same] == [stranger.json.get(each) for each in same]


class Feedback(FeedbackServiceServicer):  # type: ignore[misc]
    """SilenceAlert alone."""

    async def SilenceAlert(self, request: Any, _context: Any) -> SilenceAlertResponse:
        return SilenceAlertResponse(alert_key=request.alert_key)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({}, None),
        ({"x-waymesh-key": "0123456789ab"}, grpc.StatusCode.PERMISSION_DENIED),
        ({"x-waymesh-key": "0123456789ab", "x-waymesh-scopes": "*"}, grpc.StatusCode.PERMISSION_DENIED),
        ({"x-waymesh-key": "0123456789ab", "x-waymesh-scopes": ""}, grpc.StatusCode.PERMISSION_DENIED),
        ({"x-waymesh-key": "0123456789ab", "x-waymesh-scopes": "admin"}, None),
    ],
)
async def test_a_service_takes_the_edges_word_for_a_key_and_nothing_less(
    sent: dict[str, str], code: grpc.StatusCode | None
) -> None:
    server = GrpcServer(
        "feedback",
        host="127.0.0.1",
        port=0,
        admin_port=None,
        telemetry=Telemetry.create("feedback"),
        grace_s=1.0,
    )
    server.add(add_FeedbackServiceServicer_to_server, Feedback())
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            # What is wrong with the request is told to nobody who may not make it.
            request = SilenceAlertRequest(alert_key="" if code is not None else "x/y", duration_s=1)
            call = FeedbackServiceStub(channel).SilenceAlert(request, metadata=tuple(sent.items()))
            if code is None:
                assert (await call).alert_key == "x/y"
                return
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
        assert refused.value.code() is code
        error = errors.from_rpc_error(refused.value, "feedback", "/x", None)
        assert error.reason_name == "SCOPE_MISSING"
        assert error.metadata == {"task": "SilenceAlert", "scope": "admin"}
    finally:
        await server.stop()
