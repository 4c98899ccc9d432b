"""Tasks as streams of events: each sent as it comes, resumed by its id, ended by whoever hangs up."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from event_rig import EVENTS, HANG_S, Event, Run, accepted, ask, begin, heartbeat, refused, result, token
from gateway_rig import GPS, JSON, KEY, Agents, gateway
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse
from waymesh.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from waymesh.agent.v1.task_pb2 import AskResponse
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_AGENT_UNKNOWN,
    ERROR_REASON_DRAINING,
    ERROR_REASON_RUN_UNKNOWN,
)

from services.mesh import principal
from services.mesh.errors import FieldViolation, InvalidArgument, NotFound, Unavailable
from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry
from tests.processes import until


@pytest.mark.parametrize(
    ("listener", "path"), [("gateway", "/execute"), ("gateway", "/run"), ("agent-demo", "/run")]
)
async def test_each_event_is_sent_when_it_happens(listener: str, path: str) -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        client = rig.client(listener)
        run.says(accepted())
        stream = await begin(client, ask(), path=path, headers={"X-Request-Id": "mine"})
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["x-request-id"] == "mine"
        assert "content-length" not in stream.headers
        first = await stream.event()
        assert first is not None
        assert (first.id, first.name) == ("r.1", "accepted")
        assert first.data["accepted"]["agent_name"] == "dispatcher"
        # What comes next was not even said when the one before had arrived.
        for response, name in ((token(2, "line\nbreak"), "token"), (heartbeat(3), "heartbeat")):
            run.says(response)
            event = await stream.event()
            assert event is not None
            assert (event.id, event.name) == (response.cursor, name)
        assert event.data == {"cursor": "r.3", "run_id": "r", "heartbeat": {}}
        run.says(result(4), None)
        last, *more = await stream.rest()
        assert (last.name, more) == ("result", [])
        assert last.data["result"]["ask"]["answer"] == "at the corner"
        [request] = run.requests
        assert request.ask.question == "where is order_1?"
        assert request.cursor == ""
        # The connection serves the next request.
        if listener == "gateway":
            assert (await client.task("report_gps", GPS)).status == 200
            assert client.connections == 1


async def test_a_stream_goes_on_after_the_last_event_seen() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(result(9), None)
        stream = await begin(rig.client(), ask(), headers={"Last-Event-ID": "r.8"})
        assert [event.id for event in await stream.rest()] == ["r.9"]
        assert run.requests[0].cursor == "r.8"


@pytest.mark.parametrize("spaces", [" ", "\t", " \t  "])
async def test_spaces_around_a_header_are_no_part_of_it(spaces: str) -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(result(9), None)
        headers = {"Last-Event-ID": f"{spaces}r.8{spaces}", "Accept": f"Text/EVENT-Stream{spaces}"}
        stream = await begin(rig.client(), ask(), headers=headers)
        assert [event.id for event in await stream.rest()] == ["r.9"]
        assert run.requests[0].cursor == "r.8"


@pytest.mark.parametrize("given", ["a b", "a" * 257, "\u00e9"])
async def test_a_last_event_id_that_is_none_is_refused(given: str) -> None:
    async with gateway(agents={}) as rig:
        reply = await refused(rig.client(), ask(), headers={"Last-Event-ID": given})
        assert (reply.status, reply.json["reason"]) == (400, "INVALID_FIELD")
        assert [each["field"] for each in reply.json["details"]] == ["Last-Event-ID"]


async def test_a_stream_that_has_nothing_more_to_tell_is_empty() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(None)
        stream = await begin(rig.client(), ask(), headers={"Last-Event-ID": "r.9"})
        assert await stream.rest() == []


async def test_what_fails_before_the_first_event_is_an_ordinary_error() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        client = rig.client()
        run.says(NotFound("no such agent", reason=ERROR_REASON_AGENT_UNKNOWN, metadata={"agent": "x"}))
        reply = await refused(client, ask())
        assert (reply.status, reply.json["reason"], reply.json["service"]) == (404, "AGENT_UNKNOWN", "agents")
        assert client.connections == 1


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ("ask.question", "parameters.question"),
        ("ask", "parameters"),
        ("", "parameters"),
        ("cursor", "Last-Event-ID"),
    ],
)
async def test_what_the_owner_blames_is_named_as_the_client_sent_it(told: str, field: str) -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(InvalidArgument("bad", violations=[FieldViolation(told, "is wrong")]))
        reply = await refused(rig.client(), ask())
        assert reply.status == 400
        assert [each["field"] for each in reply.json["details"]] == [field]


async def test_the_owners_rules_hold_for_a_stream() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        reply = await refused(rig.client(), ask(question=""))
        assert reply.status == 400
        assert [each["field"] for each in reply.json["details"]] == ["parameters.question"]
        assert run.requests == []


async def test_what_fails_later_is_the_last_event() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(accepted(), token(2), NotFound("gone", reason=ERROR_REASON_RUN_UNKNOWN))
        stream = await begin(rig.client(), ask(), headers={"X-Request-Id": "mine"})
        *_, last = await stream.rest()
        assert last.name == "error"
        assert last.id is None  # whoever resumes does so after what it has really seen
        duration_ms = last.data.pop("duration_ms")
        assert duration_ms > 0
        assert last.data == {
            "error": "gone",
            "request_id": "mine",
            "service": "agents",
            "code": "NOT_FOUND",
            "reason": "RUN_UNKNOWN",
            "details": [],
        }
        assert rig.metric("http_event_streams_total", listener="gateway", path="/execute", end="failed") == 1
        assert rig.metric("http_events_total", listener="gateway", path="/execute") == 2
        [span] = [span for span in rig.spans() if span.name == "POST /execute"]
        assert span.status.description == "NOT_FOUND: gone"
        assert dict(span.attributes or {})["waymesh.events"] == 2


async def test_an_exception_in_the_middle_tells_nothing_of_itself() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(accepted(), RuntimeError("postgresql://secret"))
        stream = await begin(rig.client(), ask())
        *_, last = await stream.rest()
        assert (last.name, last.data["code"]) == ("error", "INTERNAL")
        assert "secret" not in json.dumps(last.data)


async def test_a_failure_of_the_run_is_told_as_the_run_tells_it() -> None:
    run = Run()
    failed = StreamRunResponse(cursor="r.2", run_id="r")
    failed.error.status.code, failed.error.status.message = 8, "no money left"
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(accepted(), failed, RuntimeError("after the last"))
        stream = await begin(rig.client(), ask())
        *_, last = await stream.rest()
        assert (last.id, last.name) == ("r.2", "error")
        assert last.data["error"]["status"]["code"] == "RESOURCE_EXHAUSTED"


async def test_hanging_up_ends_the_call() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        client = rig.client()
        run.says(accepted())
        stream = await begin(client, ask())
        assert await stream.event() is not None
        await client.close()
        async with asyncio.timeout(HANG_S):
            await run.ended.wait()
        assert run.cancelled
        labels = {"listener": "gateway", "path": "/execute"}
        await until(
            lambda: rig.metric("http_event_streams_total", **labels, end="cancelled") == 1, "it is counted"
        )
        assert rig.metric("http_requests_total", **labels, code="499") == 1
        assert rig.metric("http_requests_in_flight") == 0


async def test_hanging_up_before_the_first_event_ends_the_call_too() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        client = rig.client()
        asking = asyncio.create_task(begin(client, ask()))
        await until(lambda: bool(run.requests), "the call has arrived")
        await client.close()
        async with asyncio.timeout(HANG_S):
            await run.ended.wait()
        assert run.cancelled
        await asyncio.gather(asking, return_exceptions=True)


async def test_the_time_of_the_request_is_that_of_the_whole_stream() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(accepted())
        stream = await begin(rig.client(), ask(timeout_ms=700))
        events = await stream.rest()
        assert [event.name for event in events] == ["accepted", "error"]
        assert events[-1].data["reason"] == "DEADLINE_PASSED"
        assert events[-1].data["error"] == "there was no answer within 700 ms"
        async with asyncio.timeout(HANG_S):
            await run.ended.wait()


async def test_an_owner_that_is_away_is_told_before_the_stream_begins() -> None:
    async with gateway() as rig:
        reply = await refused(rig.client(), ask(timeout_ms=1_000))
        assert (reply.status, reply.json["service"]) == (503, "agents")
        assert "retry-after" in reply.headers


# --- resuming -------------------------------------------------------------------------------------

GONE = Unavailable("going", reason=ERROR_REASON_DRAINING, retry_after_s=1.0)


async def test_a_stream_whose_server_goes_is_gone_on_with_after_the_last_event() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(accepted(), token(2), GONE, token(3), GONE, GONE, result(4), None)
        events = await (await begin(rig.client(), ask())).rest()
        assert [(event.id, event.name) for event in events] == [
            ("r.1", "accepted"),
            ("r.2", "token"),
            ("r.3", "token"),
            ("r.4", "result"),
        ]
        assert [request.cursor for request in run.requests] == ["", "r.2", "r.3", "r.3"]


async def test_a_stream_that_is_resumed_by_its_client_is_gone_on_with_from_there() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(GONE, result(8), None)
        stream = await begin(rig.client(), ask(), headers={"Last-Event-ID": "r.7"})
        assert [event.id for event in await stream.rest()] == ["r.8"]
        assert [request.cursor for request in run.requests] == ["r.7", "r.7"]


async def test_a_stream_that_breaks_again_and_again_fails() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(accepted(), *[GONE] * 4)
        events = await (await begin(rig.client(), ask())).rest()
        assert [event.name for event in events] == ["accepted", "error"]
        assert events[-1].data["reason"] == "DRAINING"
        assert len(run.requests) == 4


async def test_what_would_come_too_late_is_not_waited_for() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(accepted(), Unavailable("busy", retry_after_s=30.0))
        events = await (await begin(rig.client(), ask(timeout_ms=5_000))).rest()
        assert (events[-1].name, events[-1].data["code"]) == ("error", "UNAVAILABLE")
        assert len(run.requests) == 1


async def test_a_restart_of_the_owner_is_not_seen() -> None:
    run = Run()

    def server(port: int) -> GrpcServer:
        made = GrpcServer(
            "agents", host="127.0.0.1", port=port, admin_port=None, telemetry=Telemetry.create("agents")
        )
        made.add(add_AgentServiceServicer_to_server, Agents({"StreamRun": run}))
        return made

    old = server(0)
    await old.start()
    async with gateway(agents_target=f"127.0.0.1:{old.port}") as rig:
        run.says(accepted())
        stream = await begin(rig.client(), ask())
        assert await stream.event() is not None
        successor = server(old.port)
        await successor.start()
        try:
            await old.drain(0.1)
            await old.stop()
            run.says(token(2), result(3), None)
            assert [event.name for event in await stream.rest()] == ["token", "result"]
            assert [request.cursor for request in run.requests] == ["", "r.1"]
        finally:
            await successor.stop()


async def test_a_stream_under_way_is_told_to_its_end_while_the_process_drains() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(accepted())
        client = rig.client()
        stream = await begin(client, ask())
        assert await stream.event() is not None
        draining = asyncio.create_task(rig.gateway.http.drain(0))
        await until(lambda: rig.gateway.status.draining, "the drain has begun")
        run.says(token(2))
        assert await stream.event() == Event(
            "r.2", "token", {"cursor": "r.2", "run_id": "r", "token": {"text": "a"}}
        )
        assert not draining.done()
        run.says(result(3), None)
        assert [event.name for event in await stream.rest()] == ["result"]
        reader, _ = await client.connect()
        assert await reader.read() == b""
        await draining


async def test_the_run_is_done_for_the_key_of_the_request() -> None:
    seen: list[principal.Principal] = []

    async def stream_run(_request: Any, _context: Any) -> AsyncIterator[Any]:
        seen.append(principal.current())
        yield result(1)

    async with gateway(agents={"StreamRun": stream_run}) as rig:
        await (await begin(rig.client(), ask(), headers={"x-waymesh-tenant": "victim"})).rest()
    assert [(who.tenant, who.name) for who in seen] == [("default", "FASTAPI_API_KEY")]


# --- what is accepted -----------------------------------------------------------------------------


async def answers(_request: Any, _context: Any) -> Any:
    return AskResponse(run_id="r", answer="in one piece")


@pytest.mark.parametrize(
    ("accept", "events"),
    [
        ("text/event-stream", True),
        ("application/json, text/event-stream", True),
        ("text/event-stream;q=0.9, */*;q=0.1", True),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream;q=0, */*", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html", False),
    ],
)
async def test_events_are_for_those_who_name_them_and_like_them_no_less(accept: str, events: bool) -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run, "Ask": answers}) as rig:
        run.says(result(1), None)
        client = rig.client()
        if events:
            assert len(await (await begin(client, ask(), headers={"Accept": accept})).rest()) == 1
        else:
            reply = await client.post("/execute", ask(), headers={"Accept": accept})
            assert (reply.status, reply.json["result"]["answer"]) == (200, "in one piece")


async def test_an_accept_header_in_two_lines_is_one() -> None:
    run = Run()
    async with gateway(agents={"StreamRun": run}) as rig:
        run.says(result(1), None)
        headers = {"accept": "application/json;q=0.5", "Accept": EVENTS}
        assert len(await (await begin(rig.client(), ask(), headers=headers)).rest()) == 1


async def test_a_task_without_events_says_so_to_those_who_want_nothing_else() -> None:
    async with gateway() as rig:
        client = rig.client()
        reply = await refused(client, {"task": "report_gps", "parameters": GPS})
        assert (reply.status, reply.json["reason"]) == (406, "NOT_ACCEPTABLE")
        assert reply.json["error"] == "the task report_gps has no events: accept application/json"
        assert reply.json["service"] == "eta"
        both = {"Accept": f"{EVENTS}, {JSON};q=0.1"}
        assert (await client.task("report_gps", GPS, headers=both)).status == 200


async def test_a_client_that_knows_no_chunks_gets_no_events() -> None:
    run = Run()
    body = json.dumps(ask()).encode()
    async with gateway(agents={"StreamRun": run, "Ask": answers}) as rig:
        for accept, status in ((EVENTS, b"406"), (f"{EVENTS}, */*", b"200")):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.gateway.public.port)
            head = f"POST /execute HTTP/1.0\r\nX-API-Key: {KEY}\r\nAccept: {accept}\r\n"
            head += f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            assert (await reader.read()).split(b" ", 2)[1] == status
            writer.close()


# --- back-pressure --------------------------------------------------------------------------------

PIECE = 64 << 10


class Flood:
    """A run that says as much as it is allowed to."""

    def __init__(self, events: int) -> None:
        self.events = events
        self.said = 0
        self.ended = asyncio.Event()

    async def __call__(self, _request: Any, _context: Any) -> AsyncIterator[StreamRunResponse]:
        try:
            text = "x" * PIECE
            while self.said < self.events:
                self.said += 1
                yield token(self.said, text)
            yield result(self.said + 1)
        finally:
            self.ended.set()

    async def stalled(self) -> int:
        """How many were said once no more are."""
        async with asyncio.timeout(HANG_S):
            before, still = -1, 0
            while still < 20:
                still = still + 1 if self.said == before else 0
                before = self.said
                await asyncio.sleep(0.02)
        return before


async def test_who_reads_slowly_slows_down_who_speaks_and_misses_nothing() -> None:
    flood = Flood(events=2_000)
    async with gateway(agents={"StreamRun": flood}, tracing=False) as rig:
        stream = await begin(rig.client(), ask(timeout_ms=60_000))
        said = await flood.stalled()
        # 125 MiB are to be told; what is under way fits into the buffers of sockets and of gRPC.
        assert said * PIECE < 24 << 20
        events = await stream.rest()
        assert [event.id for event in events] == [f"r.{n}" for n in range(1, 2_002)]
        assert events[-1].name == "result"


async def test_who_does_not_read_at_all_is_left_behind_once_the_time_is_over(monkeypatch: Any) -> None:
    monkeypatch.setattr("services.gateway.execute._LAST_WORD_S", 0.2)
    flood = Flood(events=100_000)
    async with gateway(agents={"StreamRun": flood}, tracing=False) as rig:
        client = rig.client()
        await begin(client, ask(timeout_ms=500))
        async with asyncio.timeout(HANG_S):
            await flood.ended.wait()
        await until(lambda: rig.metric("http_requests_in_flight") == 0, "the request has ended")
        await until(lambda: not rig.gateway.http._connections.open, "its connection has ended")
        labels = {"listener": "gateway", "path": "/execute", "end": "failed"}
        assert rig.metric("http_event_streams_total", **labels) == 1
