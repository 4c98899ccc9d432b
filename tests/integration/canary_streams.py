"""Secrets by every stream of the contracts: what is sent, what is asked for, and what comes with a call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import grpc
from bad_input_rig import GPS, OUTCOME
from canary_rig import Aviary, Birds
from waymesh.agent.v1 import agent_service_pb2, agent_service_pb2_grpc, task_pb2
from waymesh.eta.v1 import eta_service_pb2, eta_service_pb2_grpc, gps_stream_pb2
from waymesh.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc, outcome_pb2
from waymesh.gps.v1 import gps_pb2

from services.feedback.cursors import number_token
from services.gateway import rpcs
from services.mesh import json_codec

_GUARD_S: Final = 60.0


def metadata(birds: Birds, place: str) -> tuple[tuple[str, str], ...]:
    """What callers send beside a call."""
    return (
        ("authorization", f"Bearer {birds.plain(f'{place}, metadata authorization')}"),
        ("x-api-key", birds.key(f"{place}, metadata x-api-key")),
        ("cookie", f"session={birds.plain(f'{place}, metadata cookie')}"),
        ("x-request-id", birds.key(f"{place}, metadata x-request-id")),
        ("tracestate", f"vendor={birds.plain(f'{place}, metadata tracestate')}"),
    )


async def streams(mesh: Aviary) -> None:
    """Both ways and one way, calls that succeed and calls that are refused."""
    async with contextlib.AsyncExitStack() as stack:
        channels = {
            owner: await stack.enter_async_context(grpc.aio.insecure_channel(target))
            for owner, target in mesh.mesh.targets.items()
        }
        feedback = feedback_service_pb2_grpc.FeedbackServiceStub(channels["feedback"])
        eta = eta_service_pb2_grpc.EtaServiceStub(channels["eta"])
        await _outcomes(mesh, feedback)
        await _fixes(mesh, eta)
        await _runs(mesh, agent_service_pb2_grpc.AgentServiceStub(channels["agents"]))
        await _watchers(mesh, eta, feedback)
        for path, rpc in rpcs.load().items():
            if rpc.streams:
                await _broken(mesh, channels[rpc.owner], path)


async def _read(
    mesh: Aviary, what: str, call: Any, until: Callable[[Any], bool] = lambda _: False
) -> list[Any]:
    """What a stream answers until it ends, or tells what was waited for; and how it ends."""
    told: list[Any] = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        async with asyncio.timeout(_GUARD_S):
            async for message in call:
                told.append(message)
                mesh.replies.append((f"stream {what}", str(message).encode()))
                if until(message):
                    call.cancel()
                    break
    if not call.cancelled():
        end = f"{await call.code()} {await call.details()} {await call.trailing_metadata()}"
        mesh.replies.append((f"stream {what}: {end[:200]}", end.encode()))
    return told


async def _outcomes(mesh: Aviary, feedback: Any) -> None:
    birds = mesh.birds

    def event(name: str, **more: Any) -> outcome_pb2.OutcomeEvent:
        place = f"StreamOutcomes {name}"
        told = {
            **OUTCOME, "event_id": name, "status": "failure", "severity": "error",
            "input": birds.everything(f"{place} input"),
            "output": birds.everything(f"{place} output"),
            "metadata": birds.everything(f"{place} metadata"),
            "error_message": birds.said(f"{place} error_message"),
            "stack_trace": birds.said(f"{place} stack_trace"),
            "tags": [birds.key(f"{place} tag")],
        }  # fmt: skip
        made = json_codec.from_dict(outcome_pb2.OutcomeEvent, told)
        # What the rules refuse, by an answer for the one that leaves the stream open.
        made.MergeFrom(outcome_pb2.OutcomeEvent(**more))
        return made

    async def batches() -> AsyncIterator[Any]:
        songs = mesh.songs
        song = event("streamed_song", output={"text": songs.plain("StreamOutcomes output")})
        wrong = event(
            "streamed_wrong", latency_ms=-1, action_type=birds.said("StreamOutcomes action_type") * 9
        )
        # The second time the first is a conflict: the same event with another content.
        for latency_ms in (0, 7):
            first = event("streamed", latency_ms=latency_ms)
            yield feedback_service_pb2.StreamOutcomesRequest(events=[first, song, wrong], cursor="1")

    call = feedback.StreamOutcomes(batches(), metadata=metadata(birds, "StreamOutcomes"))
    answers = await _read(mesh, "StreamOutcomes", call)
    assert sum(one.stored for one in answers) == 2, answers
    assert sum(len(one.refused) for one in answers) == 3, answers
    watched = feedback.WatchOutcomes(
        feedback_service_pb2.WatchOutcomesRequest(agent_name=OUTCOME["agent_name"], cursor=number_token(1)),
        metadata=metadata(birds, "WatchOutcomes from the first on"),
    )
    await _read(
        mesh, "WatchOutcomes from the first on", watched, lambda told: told.event.event_id == "streamed_song"
    )


async def _fixes(mesh: Aviary, eta: Any) -> None:
    birds = mesh.birds
    fix = json_codec.from_dict(gps_pb2.GpsEvent, {**GPS, "event_id": "streamed_fix"})
    wrong = gps_pb2.GpsEvent(
        event_id=birds.said("StreamGps event_id"), order_id=birds.key("StreamGps order_id") * 9
    )

    async def batches() -> AsyncIterator[Any]:
        yield gps_stream_pb2.StreamGpsRequest(events=[fix, wrong], cursor="1")
        yield gps_stream_pb2.StreamGpsRequest(cursor=birds.key("StreamGps cursor") * 20)

    answers = await _read(mesh, "StreamGps", eta.StreamGps(batches(), metadata=metadata(birds, "StreamGps")))
    assert [(one.accepted, len(one.rejected)) for one in answers[:1]] == [(1, 1)], answers


async def _runs(mesh: Aviary, agents: Any) -> None:
    birds = mesh.birds
    run = task_pb2.RunTaskRequest(agent="eta", task="ask", run_id="streamed_run")
    run.input.update({"question": birds.said("StreamRun input"), **birds.everything("StreamRun input")})
    asked: Iterable[tuple[str, dict[str, Any]]] = (
        ("run_task", {"run_task": run}),
        ("ask", {"ask": {"question": f"Where is order_a? {birds.said('StreamRun question')}"}}),
        ("again", {"ask": {"question": birds.said("StreamRun again"), "run_id": "streamed_run"}}),
        ("cursor", {"cursor": birds.key("StreamRun cursor")}),
        ("too long", {"cursor": birds.said("StreamRun long cursor") * 9}),
    )
    for name, start in asked:
        place = f"StreamRun {name}"
        request = agent_service_pb2.StreamRunRequest(**start)
        await _read(mesh, place, agents.StreamRun(request, metadata=metadata(birds, place)))


async def _watchers(mesh: Aviary, eta: Any, feedback: Any) -> None:
    birds = mesh.birds
    requests: Iterable[tuple[str, Any, Any]] = (
        (
            "WatchEta cursor",
            eta.WatchEta,
            eta_service_pb2.WatchEtaRequest(cursor=birds.key("WatchEta cursor")),
        ),
        (
            "WatchEta order_ids",
            eta.WatchEta,
            eta_service_pb2.WatchEtaRequest(order_ids=[birds.said("WatchEta order_ids")]),
        ),
        (
            "WatchOutcomes cursor",
            feedback.WatchOutcomes,
            feedback_service_pb2.WatchOutcomesRequest(cursor=birds.key("WatchOutcomes cursor")),
        ),
        (
            "WatchOutcomes agent_name",
            feedback.WatchOutcomes,
            feedback_service_pb2.WatchOutcomesRequest(agent_name=birds.said("WatchOutcomes agent_name")),
        ),
    )
    for what, rpc, request in requests:
        assert await _read(mesh, what, rpc(request, metadata=metadata(birds, what))) == []


async def _broken(mesh: Aviary, channel: grpc.aio.Channel, path: str) -> None:
    """Bytes that are no message, after the stream is open."""
    name = path.rpartition("/")[2]
    data = b"\x0a\xff" + mesh.birds.key(f"bytes of {name}").encode()

    async def sent() -> AsyncIterator[bytes]:
        yield data

    call: Any = channel.stream_stream(path)(sent(), metadata=metadata(mesh.birds, f"bytes of {name}"))
    assert await _read(mesh, f"bytes of {name}", call) == []
