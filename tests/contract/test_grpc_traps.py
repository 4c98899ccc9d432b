"""Each known trap of gRPC, tracing and breakers in asyncio Python, and that the mesh does not fall into it.

What grpc.aio costs by itself, with interceptors and under our chains is measured by bench/grpc_traps.py.
"""

import asyncio
import io
import json
import sys
from importlib.metadata import version
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mesh_rig import (
    HANG_S,
    ONE_LOOP,
    PREDICT,
    SERVICE,
    Request,
    Response,
    Stub,
    address,
    answer,
    error_of,
    mesh,
    request,
    until,
)
from opentelemetry.trace import SpanKind, StatusCode
from waymesh.eta.v1 import eta_service_pb2
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_BREAKER_OPEN,
    ERROR_REASON_INTERNAL_FAULT,
    ERROR_REASON_MESSAGE_TOO_LARGE,
    ERROR_REASON_OVERLOADED,
    ERROR_REASON_TARGET_UNAVAILABLE,
)

from services.mesh import deadline, errors, logs, transport
from services.mesh.breaker import BreakerPolicy, State
from services.mesh.retry import RetryPolicy

NO_RETRY = RetryPolicy(retries=0)
# Said by a target that is not well; all other codes are the caller's doing.
FAILURES = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "DATA_LOSS", "RESOURCE_EXHAUSTED"}
MIB = 1 << 20


# A deadline does not travel.


async def test_a_deadline_travels_and_shrinks_over_three_hops():
    seen: list[float] = []

    async with mesh() as rig:
        first = await rig.hops(answer, each=lambda: seen.append(deadline.remaining() or 0.0))
        await first.PredictEta(request(), timeout=0.300)

    assert len(seen) == 3
    assert 0.300 >= seen[0] > seen[1] > seen[2] > 0
    assert seen[0] - seen[2] >= 2 * deadline.RESERVE_S


# `timeout` and `retryPolicy` in the service config.


def test_the_service_config_has_neither_timeouts_nor_retries():
    config = json.loads(transport.SERVICE_CONFIG)
    assert set(config) == {"loadBalancingConfig"}


async def test_there_is_one_layer_of_retries():
    attempts: list[dict[str, Any]] = []
    async with mesh() as rig:

        async def fails_once(_request: Request, context: Any) -> Response:
            attempts.append(dict(context.invocation_metadata()))
            if len(attempts) == 1:
                raise errors.Unavailable("not yet", retry_after_s=0.0)
            return Response()

        await rig.stub(await rig.serve(fails_once)).PredictEta(request())
    assert len(attempts) == 2
    assert not any("grpc-previous-rpc-attempts" in metadata for metadata in attempts)
    assert attempts[0]["x-request-id"] == attempts[1]["x-request-id"]


# Exception text reaches the client.


async def test_the_text_of_an_exception_stays_in_the_logs_without_its_secrets():
    stream = io.StringIO()
    handler = logs.configure("eta", "INFO", stream)
    try:
        async with mesh() as rig:

            async def fails(_request: Request, _context: Any) -> Response:
                raise RuntimeError("cannot reach postgresql://waymesh:hunter2@db/waymesh")

            stub = rig.stub(await rig.serve(fails))
            with pytest.raises(errors.Internal) as failed:
                await stub.PredictEta(request())
    finally:
        import logging

        logging.getLogger().removeHandler(handler)
        logging.captureWarnings(False)
    assert failed.value.reason == ERROR_REASON_INTERNAL_FAULT
    assert "postgresql" not in str(failed.value)
    logged = stream.getvalue()
    assert "cannot reach postgresql://waymesh:[redacted]@db/waymesh" in logged
    assert "hunter2" not in logged


async def test_an_abort_of_the_handler_passes_as_it_is():
    async with mesh() as rig:

        async def aborts(_request: Request, context: Any) -> Response:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
            raise AssertionError("abort returned")

        server = await rig.serve(aborts)
        async with grpc.aio.insecure_channel(address(server)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await Stub(channel).PredictEta(request())
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such order")


# 4 MiB receive limit.


async def test_messages_above_four_mebibytes_pass_both_ways():
    async def grows(message: eta_service_pb2.PredictEtaRequest, _context: Any) -> Response:
        return Response(degradation=Degradation(reason="x" * (6 * MIB)))

    async with mesh() as rig:
        server = await rig.serve(grows)
        big = request()
        big.query.order_id = "o"
        big.MergeFromString(b"\xfa\x7f" + _varint(6 * MIB) + b"x" * (6 * MIB))  # an unknown field
        response = await rig.stub(server).PredictEta(big)
    assert len(response.degradation.reason) == 6 * MIB


async def test_a_message_above_the_limit_is_the_callers_fault_and_no_mark_against_the_target():
    async def grows(_request: Request, _context: Any) -> Response:
        return Response(degradation=Degradation(reason="x" * (2 * MIB)))

    async with mesh() as rig:
        server = await rig.serve(grows)
        factory = rig.client(max_message_mib=1, retry=NO_RETRY)
        stub = factory.stub(Stub, address(server))
        for _ in range(6):
            with pytest.raises(errors.ResourceExhausted) as failed:
                await stub.PredictEta(request())
            assert failed.value.reason == ERROR_REASON_MESSAGE_TOO_LARGE
        assert [breaker.state for breaker in factory.breakers()] == [State.CLOSED]


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


# `maximum_concurrent_rpcs` rejects at once.


async def test_calls_beyond_the_limit_are_shed_at_once():
    inside, leave = asyncio.Event(), asyncio.Event()
    async with mesh() as rig:

        async def waits(_request: Request, _context: Any) -> Response:
            inside.set()
            await leave.wait()
            return Response()

        stub = rig.stub(await rig.serve(waits, max_concurrent=1), retry=NO_RETRY)
        first = asyncio.create_task(stub.PredictEta(request()))
        await inside.wait()
        with pytest.raises(errors.ResourceExhausted) as shed:
            await stub.PredictEta(request())
        leave.set()
        await first
    assert shed.value.reason == ERROR_REASON_OVERLOADED
    assert shed.value.retry_after_s is not None


# `server.stop(grace)` refuses new calls at once.


async def test_a_drain_says_not_serving_first_and_serves_on_until_its_window_ends():
    async with mesh() as rig:
        server = await rig.serve()
        stub = rig.stub(server, retry=NO_RETRY)
        async with grpc.aio.insecure_channel(address(server)) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            drain = asyncio.create_task(server.drain(wait_s=0.5))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not drain.done()
            await stub.PredictEta(request())
            watch.cancel()
            await drain
        with pytest.raises(errors.Unavailable) as refused:
            await stub.PredictEta(request())
    assert refused.value.reason == ERROR_REASON_TARGET_UNAVAILABLE


# Several event loops in one process.


async def test_server_client_and_admin_port_share_one_loop_without_noise():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "default", "-c", ONE_LOOP, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await asyncio.wait_for(process.communicate(), HANG_S)
    assert (process.returncode, stderr.decode()) == (0, "")


# New pods behind a headless service are not seen.


async def test_calls_go_round_all_addresses_of_a_target():
    met: set[str] = set()
    async with mesh() as rig:

        def named(name: str) -> Any:
            async def predict(_request: Request, _context: Any) -> Response:
                met.add(name)
                return Response()

            return predict

        one, two = await rig.serve(named("one")), await rig.serve(named("two"))
        factory = rig.client()
        stub = factory.stub(Stub, f"ipv4:{address(one)},{address(two)}")
        async with asyncio.timeout(HANG_S):
            while len(met) < 2:
                await stub.PredictEta(request())


def test_connections_end_now_and_then():
    options = dict(transport.server_options(64))
    assert 0 < int(options["grpc.max_connection_age_ms"]) <= 30 * 60 * 1000
    assert int(options["grpc.max_connection_age_grace_ms"]) > 0


# Keepalive too eager.


def test_clients_ping_no_more_often_than_servers_permit():
    client, server = dict(transport.client_options(64)), dict(transport.server_options(64))
    assert client["grpc.keepalive_time_ms"] >= server["grpc.http2.min_ping_interval_without_data_ms"]


# OpenTelemetry's aio interceptors.


async def test_a_caller_that_hangs_up_cancels_the_last_of_three_hops_with_tracing_on():
    reached, cancelled = asyncio.Event(), asyncio.Event()
    async with mesh(tracing=True) as rig:

        async def last(_request: Request, _context: Any) -> Response:
            reached.set()
            try:
                await asyncio.sleep(HANG_S)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return Response()

        first = await rig.hops(last)
        call = asyncio.create_task(first.PredictEta(request()))
        await reached.wait()
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), HANG_S / 4)
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: len(rig.spans()) == 6)
        spans = rig.spans()
    assert {span.status.status_code for span in spans} == {StatusCode.ERROR}
    assert {span.attributes["rpc.grpc.status_code"] for span in spans if span.attributes} == {1}
    assert len({span.context.trace_id for span in spans if span.context}) == 1


@pytest.mark.parametrize("code", list(grpc.StatusCode))
async def test_spans_of_both_sides_tell_the_true_status(code: grpc.StatusCode):
    async with mesh(tracing=True) as rig:
        ok = code is grpc.StatusCode.OK
        stub = rig.stub(await rig.serve(answer if ok else error_of(code)), retry=NO_RETRY)
        if ok:
            await stub.PredictEta(request())
        else:
            with pytest.raises(errors.error_class(code)):
                await stub.PredictEta(request())
        await until(lambda: len(rig.spans()) == 2)
        spans = rig.spans()
    assert {span.kind for span in spans} == {SpanKind.CLIENT, SpanKind.SERVER}
    expected = StatusCode.OK if ok else StatusCode.ERROR
    assert [span.status.status_code for span in spans] == [expected, expected]
    assert [span.attributes["rpc.grpc.status_code"] for span in spans if span.attributes] == [
        code.value[0],
        code.value[0],
    ]
    client = next(span for span in spans if span.kind is SpanKind.CLIENT)
    server = next(span for span in spans if span.kind is SpanKind.SERVER)
    assert client.context is not None
    assert server.parent is not None
    assert server.parent.span_id == client.context.span_id


async def test_spans_of_an_uncaught_exception_and_of_a_passed_deadline_are_errors():
    async with mesh(tracing=True) as rig:

        async def misbehaves(message: Request, _context: Any) -> Response:
            if message.query.order_id == "fails":
                raise KeyError("x")
            await asyncio.sleep(HANG_S)
            return Response()

        stub = rig.stub(await rig.serve(misbehaves), retry=NO_RETRY)
        with pytest.raises(errors.Internal):
            await stub.PredictEta(request("fails"))
        with pytest.raises(errors.DeadlineExceeded):
            await stub.PredictEta(request("hangs"), timeout=0.2)
        await until(lambda: len(rig.spans()) == 4)
        found = sorted(
            (span.kind.name, span.attributes["rpc.grpc.status_code"], span.status.status_code)
            for span in rig.spans()
            if span.attributes
        )
    assert found == [
        ("CLIENT", 4, StatusCode.ERROR),
        ("CLIENT", 13, StatusCode.ERROR),
        ("SERVER", 4, StatusCode.ERROR),
        ("SERVER", 13, StatusCode.ERROR),
    ]


# pybreaker on coroutines.


async def test_the_sixth_call_after_five_failures_is_not_sent():
    calls = 0
    async with mesh() as rig:

        async def fails(_request: Request, _context: Any) -> Response:
            nonlocal calls
            calls += 1
            raise errors.Internal("broken")

        factory = rig.client()
        stub = factory.stub(Stub, address(await rig.serve(fails)))
        for _ in range(5):
            with pytest.raises(errors.Internal):
                await stub.PredictEta(request())
        with pytest.raises(errors.Unavailable) as refused:
            await stub.PredictEta(request())
    assert calls == 5
    assert refused.value.reason == ERROR_REASON_BREAKER_OPEN
    assert refused.value.retry_after_s == pytest.approx(60, abs=10)
    assert refused.value.metadata["method"] == PREDICT


async def test_cancelled_calls_and_bad_requests_never_open_a_breaker():
    async with mesh() as rig:

        async def hangs(_request: Request, _context: Any) -> Response:
            await asyncio.sleep(HANG_S)
            return Response()

        factory = rig.client()
        stub = factory.stub(Stub, address(await rig.serve(hangs)))
        for _ in range(6):
            call = asyncio.create_task(stub.PredictEta(request()))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            with pytest.raises(errors.InvalidArgument):
                await stub.PredictEta(Request())
        assert [breaker.state for breaker in factory.breakers()] == [State.CLOSED]


async def test_of_twenty_callers_one_probes():
    inside, leave = asyncio.Event(), asyncio.Event()
    now, calls, healthy = 0.0, 0, False
    async with mesh() as rig:

        async def predict(_request: Request, _context: Any) -> Response:
            nonlocal calls
            calls += 1
            if not healthy:
                raise errors.Internal("broken")
            inside.set()
            await leave.wait()
            return Response()

        factory = rig.client(clock=lambda: now)
        stub = factory.stub(Stub, address(await rig.serve(predict)))
        for _ in range(5):
            with pytest.raises(errors.Internal):
                await stub.PredictEta(request())
        now, calls, healthy = 60.0, 0, True
        callers = [asyncio.create_task(stub.PredictEta(request())) for _ in range(20)]
        await inside.wait()
        await until(lambda: sum(caller.done() for caller in callers) == 19)
        leave.set()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert calls == 1
        assert sum(result == Response() for result in results) == 1
        assert factory.breakers()[0].state is State.CLOSED


# Which codes are failures.


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_codes_of_an_unwell_target_open_its_breaker_and_a_callers_own_faults_change_nothing(
    code: grpc.StatusCode,
):
    answers = 0
    async with mesh() as rig:

        async def fails(message: Request, context: Any) -> Response:
            nonlocal answers
            answers += 1
            return await error_of(grpc.StatusCode[message.query.order_id])(message, context)

        factory = rig.client(retry=NO_RETRY)
        stub = factory.stub(Stub, address(await rig.serve(fails)))
        for name in ("INTERNAL", "INTERNAL", "INTERNAL", "INTERNAL", code.name):
            with pytest.raises(errors.error_class(grpc.StatusCode[name])):
                await stub.PredictEta(request(name))
        [breaker] = factory.breakers()
        assert breaker.state is (State.OPEN if code.name in FAILURES else State.CLOSED)
        # The count neither grew nor began anew: the next failure is the fifth, or is not sent any more.
        with pytest.raises((errors.Internal, errors.Unavailable)):
            await stub.PredictEta(request("INTERNAL"))
        assert (breaker.state, answers) == (State.OPEN, 5 if code.name in FAILURES else 6)


# A breaker poisoned by its callers.


async def test_callers_that_grant_less_than_a_call_needs_do_not_close_it_to_everyone():
    slow = True
    async with mesh() as rig:

        async def predict(_request: Request, _context: Any) -> Response:
            if slow:
                await asyncio.sleep(HANG_S)
            return Response()

        factory = rig.client(retry=NO_RETRY, breaker=BreakerPolicy(usual_s=0.25))
        stub = factory.stub(Stub, address(await rig.serve(predict)))

        async def out_of_time(timeout_s: float) -> None:
            with pytest.raises(errors.DeadlineExceeded):
                await stub.PredictEta(request(), timeout=timeout_s)

        for timeout_s in (0.001, 0.01, 0.1) * 3:
            await out_of_time(timeout_s)
        [breaker] = factory.breakers()
        assert (breaker.state, breaker.failures) == (State.CLOSED, 0)
        slow = False
        assert await stub.PredictEta(request()) == Response()
        # Those who granted as much as is usual had a right to an answer.
        slow = True
        for _ in range(5):
            assert breaker.state is State.CLOSED
            await out_of_time(max(0.2, 4 * breaker.usual.seconds))
        assert breaker.state is State.OPEN


# protovalidate before 2.1 takes milliseconds a message.


def test_protovalidate_is_the_fast_one():
    major, minor, *_ = version("protovalidate").split(".")
    assert (int(major), int(minor)) >= (2, 1)
