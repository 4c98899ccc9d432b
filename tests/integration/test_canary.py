"""A secret in every input of a whole mesh, and none of them in anything that it writes."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from bad_input_rig import COURIER, DELIVERY, GPS, HERE, ORDER, OUTCOME, SIGNAL
from canary_rig import Aviary, Birds, aviary
from canary_streams import metadata, streams
from key_commands import keys, ran
from waymesh.eta.v1 import eta_service_pb2, eta_service_pb2_grpc
from waymesh.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc, outcome_pb2

from services.gateway import rpcs, tasks
from services.mesh import json_codec

GUARD_S = 120.0
# Where text that is no secret is to be found.
WHERE_TEXT_IS = {
    "answer to get_order",
    "stream WatchOutcomes from the first on",
    "log of gateway",
    "log of agents",
    "log of route",
    "table route.orders",
    "table bus.log",
    "table feedback.outcomes",
    "table agents.runs",
    "table gateway.audit_log",
}
STREAMS = {"accept": "text/event-stream"}


def labels(birds: Birds, place: str) -> dict[str, str]:
    return {
        "api_key": birds.plain(f"{place}, labels api_key"),
        "partner_token": birds.plain(f"{place}, labels partner_token"),
        "note": birds.said(f"{place}, labels note"),
    }


async def tasks_that_succeed(mesh: Aviary, of: str) -> None:
    """What clients do, with secrets where they may say something freely."""
    birds = mesh.birds

    async def done(task: str, parameters: object) -> None:
        reply = await mesh.task(task, parameters)
        assert reply.status == 200, reply.body

    await done("upsert_couriers", {"couriers": [COURIER]})
    context = {"labels": labels(birds, f"order {of}")}
    await done("upsert_orders", {"orders": [{**ORDER, "order_id": f"order_{of}", "context": context}]})
    await done("report_gps", {**GPS, "event_id": f"fix_{of}"})
    query = {"order_id": f"order_{of}", "context": {"labels": labels(birds, f"query {of}")}}
    await done("predict_eta", query)
    await done("batch_predict_eta", {"queries": [query]})
    for n, task in enumerate(("record_outcome", "record_outcomes")):
        place = f"{task} {of}"
        event = {
            **OUTCOME,
            "event_id": f"event_{of}_{n}",
            "status": "failure",
            "severity": "error",
            "input": birds.everything(f"{place} input"),
            "output": birds.everything(f"{place} output"),
            "metadata": birds.everything(f"{place} metadata"),
            "error_message": birds.said(f"{place} error_message"),
            "stack_trace": f"Traceback (most recent call last):\n  {birds.said(f'{place} stack_trace')}\n",
            "tags": [birds.key(f"{place} tag")],
        }
        await done(task, event if n == 0 else {"events": [event]})
    delivery = {
        **DELIVERY,
        "outcome_id": f"outcome_{of}",
        "context": {"labels": labels(birds, f"delivery {of}")},
    }
    await done("record_delivery_outcomes", {"outcomes": [delivery]})
    signal = {
        **SIGNAL,
        "signal_id": f"signal_{of}",
        "message": birds.said(f"signal {of} message"),
        "labels": labels(birds, f"signal {of}"),
    }
    await done("record_signals", {"signals": [signal]})
    silence = {"alert_key": "error_rate/eta", "duration_s": 60, "comment": birds.said(f"silence {of}")}
    await done("silence_alert", silence)
    reading: list[tuple[str, dict[str, Any]]] = [
        ("get_order", {"order_id": f"order_{of}"}),
        ("list_outcomes", {}),
        ("list_delivery_outcomes", {}),
        ("list_failure_counts", {}),
        ("query_metrics", {}),
        ("list_alerts", {}),
        ("get_gps_stats", {}),
        ("allocate_drivers", {}),
        ("list_runs", {}),
        ("get_spending", {}),
    ]
    for task, parameters in reading:
        await done(task, parameters)


async def agents(mesh: Aviary) -> None:
    """Agents and runs: definitions, inputs, questions, as answers and as streams of events."""
    birds = mesh.birds
    spec: dict[str, Any] = {
        "name": "night-shift",
        "description": "For the night.",
        "instructions": {"system": "You speak to tired people.", "style": "Be brief."},
        "capabilities": [{"capability_id": "get_order"}],
    }
    made = await mesh.ask("POST", "/api/agents", spec, what="create_agent")
    assert made.status == 200, made.body
    agent = made.json["agent_id"]
    change = {"spec": {**spec, "description": "For late hours."}, "expected_version": 1}
    assert (await mesh.ask("PUT", f"/api/agents/{agent}", change, what="update_agent")).status == 200
    # What an agent is told is kept as it is; so it may hold no secret at all.
    wrong: list[dict[str, Any]] = [
        {"description": birds.said("agent description")},
        {"instructions": {"system": birds.said("agent system")}},
        {"instructions": {"style": birds.said("agent style")}},
        {"capabilities": [{"capability_id": "get_order", "config": birds.everything("capability")}]},
        {"output_schema": {"type": "object", "properties": {"x": {"const": birds.key("schema const")}}}},
        {"output_schema": {"type": "object", "password": birds.plain("schema password")}},
        {"output_schema": {"type": "object", "properties": {"x": {"$ref": f"{mesh.trap.url}/schema"}}}},
        {"config": {"model": {"model": birds.key("model")}}},
    ]
    for n, part in enumerate(wrong):
        reply = await mesh.ask(
            "POST", "/api/agents", {**spec, "name": f"wrong-{n}", **part}, what="create_agent"
        )
        assert reply.status == 400, reply.body
        change = {"spec": {**spec, **part}, "expected_version": 2}
        reply = await mesh.ask("PUT", f"/api/agents/{agent}", change, what="update_agent")
        assert reply.status == 400, reply.body
    await mesh.ask("GET", f"/api/agents/{agent}/versions", what="list_agent_versions")
    for n, accept in enumerate(({}, STREAMS)):
        for agent in ("night-shift", "eta"):
            at = f"{agent} {'events' if accept else 'answer'}"
            run = {
                "agent": agent,
                "task": "explain_eta",
                "input": birds.everything(f"run {at}"),
                "run_id": f"run_{agent}_{n}",
            }
            await mesh.task("run_task", run, **accept)
            await mesh.task("get_run", {"run_id": f"run_{agent}_{n}"})
        question = birds.said(f"question {n}")
        await mesh.task("ask", {"question": f"Where is order_a? {question}", "run_id": f"ask_{n}"}, **accept)
        await mesh.task("get_run", {"run_id": f"ask_{n}"})
        question = f"why so late? {birds.said(f'explain {n}')}"
        await mesh.task("explain_eta", {"query": {"order_id": "order_a"}, "question": question}, **accept)
    weather = f"What is the weather at -23.55, -46.63? {birds.said('weather')}"
    await mesh.task("ask", {"question": weather})


async def headers_and_paths(mesh: Aviary) -> None:
    """What comes beside a body."""
    birds = mesh.birds
    for what, key in {"wrong": birds.key("wrong X-API-Key"), "odd": birds.plain("odd X-API-Key")}.items():
        await mesh.ask("POST", "/execute", {"task": "get_gps_stats"}, what=f"{what} key", X_API_Key=key)
    more = {
        "Authorization": f"Bearer {birds.plain('header Authorization')}",
        "Cookie": f"session={birds.plain('header Cookie')}",
        "Proxy_Authorization": f"Basic {birds.plain('header Proxy-Authorization')}",
        "X_Amz_Security_Token": birds.plain("header X-Amz-Security-Token"),
        "X_Request_Id": birds.key("header X-Request-Id"),
        "Tracestate": f"vendor={birds.plain('header tracestate')}",
        "Origin": f"https://{birds.plain('header Origin')}.example",
        "Last_Event_ID": birds.key("header Last-Event-ID"),
        "User_Agent": birds.key("header User-Agent"),
        "X_Forwarded_Host": mesh.trap.url.removeprefix("http://"),
        "Forwarded": f"host={mesh.trap.url.removeprefix('http://')};proto=http",
        "Referer": f"{mesh.trap.url}/referer",
    }
    await mesh.task("get_gps_stats", {}, **more)
    await mesh.task("get_order", {"order_id": "nobody"}, **more)
    await mesh.task("ask", {"question": "What can you do?"}, **more, **STREAMS)
    await mesh.ask("GET", f"/api/agents?api_key={birds.plain('query api_key')}", what="query")
    await mesh.ask("GET", f"/api/agents?page_token={birds.key('query page_token')}", what="page token")
    await mesh.ask(
        "GET", f"/api/agents?filter={mesh.trap.url}/query&callback={mesh.trap.url}/callback", what="addresses"
    )
    await mesh.task(
        "ask", {"question": f"Fetch {mesh.trap.url}/page and {mesh.trap.url}/more, and tell what it says."}
    )
    await mesh.task(
        "run_task", {"agent": "eta", "task": "ask", "input": {"url": mesh.trap.url, "webhook": mesh.trap.url}}
    )
    await mesh.ask("GET", f"/health?token={birds.plain('query token')}", what="health")
    for path in (
        "/{}",
        "/api/agents/{}",
        "/authorize/{}",
        "/api/agents/{}/revert",
        "/execute/{}",
        "/api/{}/x",
    ):
        for method in ("GET", "POST"):
            await mesh.ask(method, path.format(birds.key(f"{method} {path}")), b"{}", what=f"{method} {path}")
    for kind in (f"text/{birds.key('content type')}", f'application/json; charset="{birds.key("charset")}"'):
        await mesh.ask("POST", "/execute", b"{}", what="content type", Content_Type=kind)


async def wrong_bodies(mesh: Aviary) -> None:
    """Bodies that are no JSON, name nothing, or have everything in the wrong place."""
    birds = mesh.birds
    for n, broken in enumerate(
        (
            b'{"task": "ask", "password": "%s"',
            b'{"task": "ask", "parameters": {"question": "password=%s',
            b"password=%s&task=ask",
            b'{"task": "%s", "parameters": {}}',
            b'{"task": "ask", "parameters": {}, "timeout_ms": "%s"}',
            b'{"task": "ask", "%s": 1}',
            b'["%s"]',
            b'"%s"',
        )
    ):
        await mesh.ask("POST", "/execute", broken % birds.key(f"body {n}").encode(), what=f"body {broken!r}")
    for name in tasks.load():
        await mesh.task(
            name, {"password": birds.plain(f"{name}, unknown field"), "x": birds.everything(name)}
        )
        await mesh.task(name, birds.key(f"{name}, parameters are a text"))
        await mesh.task(name, [birds.key(f"{name}, parameters are a list")])
    for field in ("speed_kph", "timestamp", "trip_stage", "location", "anomaly_flags"):
        await mesh.task("report_gps", {**GPS, field: birds.key(f"report_gps {field}")})
    await mesh.task("report_gps", {**GPS, "location": {**HERE, birds.key("a field's name"): 1}})
    await mesh.task("record_outcome", {**OUTCOME, "status": birds.key("record_outcome status")})
    for task in ("list_outcomes", "query_metrics", "list_runs"):
        await mesh.task(task, {"page_token": birds.key(f"{task} page_token")})


async def grpc_calls(mesh: Aviary) -> None:
    """By gRPC: metadata, requests that fail, bytes that are no message, methods that are none."""
    birds = mesh.birds

    async def failing(call: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with asyncio.timeout(GUARD_S):
                await call
        told = f"{await call.details()} {await call.trailing_metadata()}"
        mesh.replies.append((f"gRPC: {await call.code()} {told[:200]}", told.encode()))

    async with contextlib.AsyncExitStack() as stack:
        channels = {
            owner: await stack.enter_async_context(grpc.aio.insecure_channel(target))
            for owner, target in mesh.mesh.targets.items()
        }
        eta = eta_service_pb2_grpc.EtaServiceStub(channels["eta"])
        query = eta_service_pb2.PredictEtaRequest()
        query.query.order_id = "nobody"
        query.query.context.labels["password"] = birds.plain("gRPC label")
        await failing(eta.PredictEta(query, metadata=metadata(birds, "PredictEta")))
        feedback = feedback_service_pb2_grpc.FeedbackServiceStub(channels["feedback"])
        event = json_codec.from_dict(
            outcome_pb2.OutcomeEvent,
            {**OUTCOME, "event_id": "grpc", "input": birds.everything("gRPC outcome input")},
        )
        request = feedback_service_pb2.RecordOutcomeRequest(event=event)
        await failing(feedback.RecordOutcome(request, metadata=metadata(birds, "RecordOutcome")))
        for path, rpc in rpcs.load().items():
            if rpc.streams:
                continue
            call: Any = channels[rpc.owner].unary_unary(path)
            await failing(
                call(
                    b"\x0a\xff" + birds.key(f"bytes of {rpc.scope}").encode(),
                    metadata=metadata(birds, rpc.scope),
                )
            )
        missing: Any = channels["eta"].unary_unary(f"/waymesh.eta.v1.EtaService/{birds.key('a method')}")
        await failing(missing(b""))


async def plain_words(mesh: Aviary) -> None:
    """What is no secret, at the same places: a search that did not find it would prove nothing."""
    songs = mesh.songs
    order = songs.plain("order_id")
    await mesh.task("upsert_orders", {"orders": [{**ORDER, "order_id": order}]})
    await mesh.task("get_order", {"order_id": songs.plain("get_order")})
    event = {**OUTCOME, "event_id": "song", "output": {"text": songs.plain("output")}}
    await mesh.task("record_outcome", event)
    await mesh.task("ask", {"question": f"Where is {songs.plain('question')}?"})
    await mesh.ask("GET", f"/api/agents/{songs.plain('path')}", what="a path")
    await keys(mesh.mesh.dsn, "revoke", songs.plain("keys revoke"), data_dir=mesh.mesh.folder)


async def commands(mesh: Aviary) -> None:
    """Keys are made, rotated and refused; each key that was shown is a secret too."""
    dsn = mesh.mesh.dsn
    _, key, told = await keys(dsn, "add", "partner", data_dir=mesh.mesh.folder)
    mesh.birds._kept("the partner's key", key.strip())
    mesh.replies.append(("keys add, what is said", told.encode()))
    await mesh.task("get_gps_stats", {}, X_API_Key=key.strip())
    await mesh.task("silence_alert", {"alert_key": "error_rate/eta", "duration_s": 1}, X_API_Key=key.strip())
    _, code, told = await keys(dsn, "revoke", mesh.birds.key("keys revoke"), data_dir=mesh.mesh.folder)
    mesh.replies.append(("keys revoke", (code + told).encode()))
    _, listed, _ = await ran(dsn, "audit", "list", data_dir=mesh.mesh.folder)
    mesh.replies.append(("audit list", listed.encode()))


@dataclass(frozen=True)
class Findings:
    """What a run has left behind."""

    secrets: int
    # Where secrets were found, and where plain text was.
    leaks: list[str]
    seen: list[str]
    visitors: int


async def whole_run(dsn: str, folder: Path) -> Findings:
    async with aviary(dsn, folder) as mesh:
        await tasks_that_succeed(mesh, "a")
        await agents(mesh)
        await headers_and_paths(mesh)
        await wrong_bodies(mesh)
        await grpc_calls(mesh)
        await streams(mesh)
        await commands(mesh)
        await plain_words(mesh)
        await mesh.settled()
        leaks, seen = await mesh.findings()
        return Findings(len(mesh.birds), leaks, seen, mesh.trap.visitors)


@pytest.fixture(scope="module")
def run(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return asyncio.run(whole_run(module_database, tmp_path_factory.mktemp("canary")))


def test_no_secret_that_a_mesh_was_given_is_in_anything_it_writes(run: Findings) -> None:
    assert run.secrets > 1000
    assert run.leaks == [], "\n".join(run.leaks)


def test_what_is_no_secret_is_found_at_the_same_places(run: Findings) -> None:
    places = {where.partition(" → ")[2].partition(":")[0] for where in run.seen}
    assert places >= WHERE_TEXT_IS
    assert any(place.startswith("span of ") for place in places)


def test_nobody_follows_an_address_that_a_caller_has_named(run: Findings) -> None:
    assert run.visitors == 0
