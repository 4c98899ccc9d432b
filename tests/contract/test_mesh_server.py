"""A server of the mesh as seen from outside: health, admin port, reflection, validation, streams."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from mesh_rig import FROZEN_CALLER, SERVICE, Eta, Request, Response, Stub, address, mesh, request, until
from waymesh.eta.v1 import eta_pb2, eta_service_pb2, gps_stream_pb2
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_DRAINING, ERROR_REASON_INTERNAL_FAULT

from services.mesh import errors
from services.mesh.errors import FieldViolation
from services.mesh.server import GrpcServer

HANG_S = 20.0


async def http(port: int, path: str, verb: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), HANG_S)
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split(" ")[1]), headers, body


async def health_of(server: GrpcServer, service: str = "") -> str:
    async with grpc.aio.insecure_channel(address(server)) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service)
        )
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_health_follows_the_checks_overall_and_per_service():
    broken = False
    checked = asyncio.Event()

    async def store() -> None:
        checked.set()
        if broken:
            raise ConnectionRefusedError

    async with mesh() as rig:
        server = await rig.serve(admin_port=0, checks={"store": store})
        assert (await health_of(server), await health_of(server, SERVICE)) == ("SERVING", "SERVING")
        assert (await http(server.admin_port, "/health/ready"))[0] == 200
        async with grpc.aio.insecure_channel(address(server)) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            statuses = [(await watch.read()).status]
            for broken in (True, False):
                statuses.append((await watch.read()).status)
                code, _, body = await http(server.admin_port, "/health")
                assert code == (503 if broken else 200)
                assert json.loads(body)["checks"]["store"] == ("ConnectionRefusedError" if broken else "ok")
            watch.cancel()
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert statuses == [serving, not_serving, serving]


async def test_health_tells_of_a_failed_check_what_may_be_told():
    async def store() -> None:
        raise errors.Unavailable("the store did not answer")

    async def other() -> None:
        raise RuntimeError("postgres://user:hunter2@db/x")

    async with mesh() as rig:
        server = await rig.serve(admin_port=0, checks={"store": store, "other": other})
        code, _, body = await http(server.admin_port, "/health")
    assert code == 503
    assert json.loads(body)["checks"] == {"store": "the store did not answer", "other": "RuntimeError"}


async def test_a_server_whose_dependency_is_away_at_the_start_is_alive_but_not_ready():
    async def store() -> None:
        raise ConnectionRefusedError

    async with mesh() as rig:
        server = await rig.serve(admin_port=0, checks={"store": store})
        assert await health_of(server) == "NOT_SERVING"
        assert (await http(server.admin_port, "/health/live"))[0] == 200
        assert (await http(server.admin_port, "/health/ready"))[0] == 503


async def test_the_admin_port_serves_metrics_and_nothing_else():
    async with mesh() as rig:
        server = await rig.serve(admin_port=0)
        await rig.stub(server).PredictEta(request())
        status, headers, body = await http(server.admin_port, "/metrics")
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
        labels = f'grpc_code="OK",grpc_method="PredictEta",grpc_service="{SERVICE}"'
        assert f"grpc_server_handling_seconds_count{{{labels}}} 1.0" in body.decode()
        assert f"grpc_client_handling_seconds_count{{{labels}}} 1.0" in body.decode()
        assert (await http(server.admin_port, "/"))[0] == 404
        assert (await http(server.admin_port, "/metrics", "POST"))[0] == 405
        status, headers, body = await http(server.admin_port, "/health", "HEAD")
        assert (status, body) == (200, b"")


@pytest.mark.parametrize(
    "sent", [b"\r\n\r\n", b"nonsense\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"x" * 100_000]
)
async def test_what_is_not_http_does_no_harm_to_the_admin_port(sent: bytes):
    async with mesh() as rig:
        server = await rig.serve(admin_port=0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
        writer.write(sent)
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), HANG_S)
        writer.close()
        assert (await http(server.admin_port, "/health/live"))[0] == 200


async def test_several_requests_share_a_connection_to_the_admin_port():
    async with mesh() as rig:
        server = await rig.serve(admin_port=0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
        for sent in (b"GET /health/live HTTP/1.1\r\nHost", b": x\r\n\r\nGET /health/live HTTP/1.1\r\n\r\n"):
            writer.write(sent)
            await writer.drain()
        for _ in range(2):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANG_S)
            assert head.startswith(b"HTTP/1.1 200 OK")
            await reader.readexactly(len(b'{"status":"ok"}'))
        writer.close()


async def test_reflection_names_the_services():
    async with mesh() as rig:
        server = await rig.serve()
        async with grpc.aio.insecure_channel(address(server)) as channel:
            ask = reflection_pb2.ServerReflectionRequest(list_services="")
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
            names = {service.name for service in (await call.read()).list_services_response.service}
            call.cancel()
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_a_request_that_breaks_a_rule_never_reaches_the_handler():
    async with mesh() as rig:

        async def unreached(_request: Request, _context: Any) -> Response:
            raise AssertionError("reached")

        stub = rig.stub(await rig.serve(unreached))
        queries = [eta_pb2.EtaQuery(order_id="o"), eta_pb2.EtaQuery()]
        with pytest.raises(errors.InvalidArgument) as failed:
            await stub.BatchPredictEta(eta_service_pb2.BatchPredictEtaRequest(queries=queries))
    assert [violation.field for violation in failed.value.violations] == ["queries[1]"]
    assert isinstance(failed.value.violations[0], FieldViolation)


async def test_each_message_of_a_request_stream_is_checked():
    async with mesh() as rig:
        stub = rig.stub(await rig.serve(Eta()))
        good = gps_stream_pb2.StreamGpsRequest(cursor="1")
        bad = gps_stream_pb2.StreamGpsRequest(cursor="x" * 300)
        stream = stub.StreamGps(iter([good, bad]))
        await stream.read()
        with pytest.raises(errors.InvalidArgument) as failed:
            await stream.read()
    assert failed.value.violations[0].field == "cursor"


async def test_a_cancellation_that_nobody_asked_for_is_a_fault_of_the_handler():
    async with mesh() as rig:

        async def confused(_request: Request, _context: Any) -> Response:
            raise asyncio.CancelledError

        with pytest.raises(errors.Internal) as failed:
            await rig.stub(await rig.serve(confused)).PredictEta(request())
    assert failed.value.reason == ERROR_REASON_INTERNAL_FAULT


async def test_a_drain_ends_open_streams_so_that_readers_resume_elsewhere():
    async with mesh() as rig:

        async def endless(_request: Any, _context: Any) -> Any:
            yield eta_service_pb2.WatchEtaResponse(cursor="1")
            await asyncio.Event().wait()

        server = await rig.serve(Eta(watch=endless), grace_s=HANG_S)
        stream = rig.stub(server).WatchEta(eta_service_pb2.WatchEtaRequest())
        assert (await stream.read()).cursor == "1"
        async with asyncio.timeout(HANG_S / 2):
            await server.drain()
        with pytest.raises(errors.Unavailable) as ended:
            await stream.read()
    assert ended.value.reason == ERROR_REASON_DRAINING
    assert ended.value.from_peer


async def test_a_drain_lets_calls_under_way_end():
    inside, leave = asyncio.Event(), asyncio.Event()
    async with mesh() as rig:

        async def waits(_request: Request, _context: Any) -> Response:
            inside.set()
            await leave.wait()
            return Response()

        server = await rig.serve(waits, grace_s=HANG_S)
        stub = rig.stub(server)
        call = asyncio.create_task(stub.PredictEta(request()))
        await inside.wait()
        drain = asyncio.create_task(server.drain())
        await asyncio.sleep(0)
        leave.set()
        assert await call == Response()
        await drain


async def test_the_server_ends_a_handler_whose_caller_is_frozen():
    ended = asyncio.Event()
    frozen: list[int] = []
    async with mesh() as rig:

        async def hangs(_request: Request, _context: Any) -> Response:
            os.kill(frozen[0], signal.SIGSTOP)
            try:
                await asyncio.sleep(HANG_S)
            finally:
                ended.set()
            return Response()

        server = await rig.serve(hangs)
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FROZEN_CALLER, address(server), stdin=asyncio.subprocess.PIPE
        )
        frozen.append(caller.pid)
        assert caller.stdin is not None
        caller.stdin.write(b"\n")
        try:
            await asyncio.wait_for(ended.wait(), HANG_S / 2)
        finally:
            caller.kill()
            await caller.wait()


async def test_a_successor_takes_over_the_port_without_a_failed_call():
    async with mesh() as rig:
        old = await rig.serve()
        stub = rig.stub(old)
        answered = 0
        ending = False

        async def caller() -> None:
            nonlocal answered
            while not ending:
                assert await stub.PredictEta(request()) == Response()
                answered += 1

        async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as callers:
            for _ in range(16):
                callers.create_task(caller())
            await until(lambda: answered >= 100)
            await rig.serve(port=old.port)
            await old.drain(wait_s=0.05)
            after = answered
            while answered < after + 500:
                await asyncio.sleep(0.005)
            ending = True


async def test_while_a_server_drains_all_new_connections_go_to_its_successor():
    """One in the queue of a listener that closes is reset: the old one must get no more of them before."""
    reached: list[str] = []

    def told(name: str) -> Any:
        async def predict(_request: Request, _context: Any) -> Response:
            reached.append(name)
            return Response()

        return predict

    async with mesh() as rig:
        old = await rig.serve(told("old"))
        await rig.serve(told("successor"), port=old.port)
        drain = asyncio.create_task(old.drain(wait_s=HANG_S))
        await until(lambda: old.health.draining)
        for _ in range(30):  # by chance alone, one in two
            # A pool of its own is a connection of its own.
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(address(old), options=options) as channel:
                await Stub(channel).PredictEta(request())
        drain.cancel()
    assert reached == ["successor"] * 30


async def test_a_taken_port_is_an_os_error():
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with mesh() as rig:
        with pytest.raises(OSError, match=str(port)):
            await rig.serve(port=port)
    listener.close()
    await listener.wait_closed()


async def test_an_unserved_method_is_unimplemented():
    async with mesh() as rig:
        call = (
            rig.client()
            .channel(address(await rig.serve()))
            .unary_unary(
                f"/{SERVICE}/OfTomorrow",
                request_serializer=Request.SerializeToString,
                response_deserializer=Response.FromString,
            )
        )
        with pytest.raises(errors.Unimplemented):
            await call(request())


async def test_the_stub_of_grpc_itself_understands_the_server():
    async with mesh() as rig:
        server = await rig.serve()
        async with grpc.aio.insecure_channel(address(server)) as channel:
            assert await Stub(channel).PredictEta(request()) == Response()
