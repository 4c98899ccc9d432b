"""Calls between services of the mesh, end to end: budgets, errors, retries, breakers, streams, traces."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from mesh_rig import (
    HANG_S,
    PREDICT,
    SERVICE,
    Eta,
    Request,
    Response,
    Stub,
    address,
    error_of,
    mesh,
    request,
    until,
)
from waymesh.eta.v1 import eta_service_pb2, gps_stream_pb2
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_BREAKER_OPEN, ERROR_REASON_ORDER_UNKNOWN

from services.mesh import deadline, errors
from services.mesh.breaker import BreakerPolicy, State
from services.mesh.chain.invoke import unary
from services.mesh.chain.method import describe_method
from services.mesh.health import SERVING
from services.mesh.retry import RetryPolicy

NO_RETRY = RetryPolicy(retries=0)


async def test_nothing_is_sent_when_nothing_is_left():
    calls = 0
    async with mesh() as rig:

        async def counted(_request: Request, _context: Any) -> Response:
            nonlocal calls
            calls += 1
            return Response()

        stub = rig.stub(await rig.serve(counted))
        with deadline.budget(deadline.RESERVE_S / 2), pytest.raises(errors.DeadlineExceeded):
            await stub.PredictEta(request())
    assert calls == 0


@pytest.mark.parametrize("seconds", [0.3, 1.0, 9.999, 10.0, 60.0, 100.0])
async def test_a_budget_does_not_grow_on_the_wire(seconds: float):
    seen: list[float] = []
    async with mesh() as rig:

        async def look(_request: Request, _context: Any) -> Response:
            seen.append(deadline.remaining() or 0.0)
            return Response()

        await rig.stub(await rig.serve(look)).PredictEta(request(), timeout=seconds)
    assert 0 < seen[0] <= seconds


async def test_a_typed_error_arrives_as_the_same_typed_error_over_two_hops():
    async with mesh() as rig:

        async def unknown(_request: Request, _context: Any) -> Response:
            raise errors.NotFound(
                "order o is not known", reason=ERROR_REASON_ORDER_UNKNOWN, metadata={"order_id": "o"}
            )

        b = rig.stub(await rig.serve(unknown))

        async def passes_on(message: Request, _context: Any) -> Response:
            return await b.PredictEta(message)

        a = rig.stub(await rig.serve(passes_on))
        with pytest.raises(errors.NotFound) as failed:
            await a.PredictEta(request())
    assert failed.value.reason == ERROR_REASON_ORDER_UNKNOWN
    assert dict(failed.value.metadata) == {"order_id": "o"}


async def test_a_stream_that_its_reader_leaves_ends_the_handler_and_both_spans():
    left = asyncio.Event()
    async with mesh(tracing=True) as rig:

        async def endless(_request: Any, _context: Any) -> Any:
            try:
                while True:
                    yield eta_service_pb2.WatchEtaResponse(cursor="1")
                    await asyncio.sleep(0.01)
            finally:
                left.set()

        stub = rig.stub(await rig.serve(Eta(watch=endless)))
        stream = stub.WatchEta(eta_service_pb2.WatchEtaRequest())
        async for _ in stream:
            break
        stream.cancel()
        await asyncio.wait_for(left.wait(), HANG_S)
        await until(lambda: len(rig.spans()) == 2)
        spans = rig.spans()
    assert {span.attributes["rpc.grpc.status_code"] for span in spans if span.attributes} == {1}


async def test_a_trace_is_passed_on_where_nobody_records_it():
    parents: list[str] = []
    async with mesh() as rig:

        async def last(_request: Request, context: Any) -> Response:
            parents.append(str(dict(context.invocation_metadata())["traceparent"]))
            return Response()

        b = rig.stub(await rig.serve(last))

        async def first(message: Request, context: Any) -> Response:
            return await b.PredictEta(message)

        server = await rig.serve(first)
        given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        async with grpc.aio.insecure_channel(address(server)) as channel:
            await Stub(channel).PredictEta(request(), metadata=(("traceparent", given),))
    assert parents[0][3:35] == given[3:35]


async def test_a_fallback_answers_before_its_callers_deadline():
    async with mesh() as rig:

        async def hangs(_request: Request, _context: Any) -> Response:
            await asyncio.sleep(HANG_S)
            return Response()

        b = rig.stub(await rig.serve(hangs))

        async def falls_back(message: Request, _context: Any) -> Response:
            try:
                return await b.PredictEta(message)
            except errors.DeadlineExceeded:
                assert (deadline.remaining() or 0) > 0
                return Response(degradation=Degradation(source="fallback", reason="b: DEADLINE_EXCEEDED"))

        a = rig.stub(await rig.serve(falls_back))
        response = await a.PredictEta(request(), timeout=0.300)
    assert response.degradation.source == "fallback"


@pytest.mark.parametrize("header", [("tracestate", "a=é"), ("tracestate", "a\n"), ("X-Upper", "a")])
@pytest.mark.parametrize("quick", [False, True])
async def test_headers_of_ours_that_cannot_be_sent_say_nothing_about_the_target(
    header: tuple[str, str], quick: bool
):
    async with mesh() as rig:
        server = await rig.serve()
        factory = rig.client(retry=NO_RETRY)
        channel = factory.channel(address(server))
        stub = Stub(channel)
        method, options = describe_method(PREDICT), dict[str, Any]()
        bare = channel.quick_unary(PREDICT, Request.SerializeToString, Response.FromString)
        for _ in range(6):
            if quick:
                call = channel.chain.begin(method, HANG_S, (header,))
                calling = unary(channel.chain, call, bare, request(), options)
            else:
                calling = stub.PredictEta(request(), metadata=(header,))
            with pytest.raises(errors.Internal) as failed:
                await calling
            assert not failed.value.from_peer
        [breaker] = factory.breakers()
        assert (breaker.state, breaker.failures) == (State.CLOSED, 0)
        assert await stub.PredictEta(request()) == Response()


async def test_a_target_that_comes_back_is_probed_long_before_the_minute_is_over():
    async with mesh() as rig:
        server = await rig.serve()
        port = server.port
        factory = rig.client(retry=NO_RETRY)
        stub = factory.stub(Stub, address(server))
        await stub.PredictEta(request())
        await server.stop()
        for _ in range(5):
            with pytest.raises(errors.Unavailable):
                await stub.PredictEta(request())
        assert factory.breakers()[0].state is State.OPEN
        await rig.serve(port=port)
        await until(lambda: factory.breakers()[0].state is State.HALF_OPEN)
        assert await stub.PredictEta(request()) == Response()
        assert factory.breakers()[0].state is State.CLOSED


async def test_a_target_whose_health_never_failed_is_left_alone_for_its_minute(
    monkeypatch: pytest.MonkeyPatch,
):
    judged: list[int] = []
    async with mesh() as rig:
        server = await rig.serve(error_of(grpc.StatusCode.INTERNAL))
        factory = rig.client(breaker=BreakerPolicy())
        health = factory._health

        async def noted(target: str, service: str) -> AsyncIterator[int]:
            async for status in health(target, service):
                yield status
                judged.append(status)  # whoever asks for the next one is done with this one

        monkeypatch.setattr(factory, "_health", noted)
        stub = factory.stub(Stub, address(server))
        for _ in range(5):
            with pytest.raises(errors.Internal):
                await stub.PredictEta(request())
        await until(lambda: judged == [SERVING])
        assert factory.breakers()[0].state is State.OPEN


# Retries.


class Countdown:
    """Fails some times, then answers; notes when it was called."""

    def __init__(self, failures: int, error: errors.MeshError) -> None:
        self.left = failures
        self.error = error
        self.calls = 0

    async def __call__(self, _request: Request, _context: Any) -> Response:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return Response()


SOON = errors.Unavailable("not now", retry_after_s=0.001)


async def test_an_idempotent_call_is_tried_up_to_four_times():
    async with mesh() as rig:
        three, four = Countdown(3, SOON), Countdown(4, SOON)
        assert await rig.stub(await rig.serve(three)).PredictEta(request()) == Response()
        with pytest.raises(errors.Unavailable):
            await rig.stub(await rig.serve(four)).PredictEta(request())
    assert (three.calls, four.calls) == (4, 4)


async def test_a_call_that_may_not_be_repeated_is_made_once():
    async with mesh() as rig:
        handler = Countdown(1, SOON)
        call = (
            rig.client()
            .channel(address(await rig.serve(handler)))
            .stream_unary(  # requests of a stream cannot be sent again
                f"/{SERVICE}/PredictEta",
                request_serializer=Request.SerializeToString,
                response_deserializer=Response.FromString,
            )
        )
        with pytest.raises(errors.Unavailable):
            await call(iter([request()]))
    assert handler.calls == 1


@pytest.mark.parametrize("error", [errors.Internal("x"), errors.NotFound("x"), errors.Aborted("x")])
async def test_what_will_not_pass_is_not_retried(error: errors.MeshError):
    async with mesh() as rig:
        handler = Countdown(1, error)
        with pytest.raises(type(error)):
            await rig.stub(await rig.serve(handler)).PredictEta(request())
    assert handler.calls == 1


async def test_the_servers_retry_info_wins_over_our_own_wait():
    class Never(random.Random):
        def uniform(self, a: float, b: float) -> float:
            raise AssertionError("our own wait was asked for")

    async with mesh() as rig:
        handler = Countdown(1, SOON)
        assert await rig.stub(await rig.serve(handler), rng=Never()).PredictEta(request()) == Response()
    assert handler.calls == 2


async def test_a_wait_that_does_not_fit_the_budget_is_not_begun():
    async with mesh() as rig:
        handler = Countdown(1, errors.Unavailable("later", retry_after_s=60.0))
        stub = rig.stub(await rig.serve(handler))
        with pytest.raises(errors.Unavailable) as failed:
            await stub.PredictEta(request(), timeout=5.0)
        handler.left = 1
        with deadline.budget(5.0), pytest.raises(errors.Unavailable):
            await stub.PredictEta(request(), timeout=100.0)
    assert failed.value.retry_after_s == 60.0
    assert handler.calls == 2


async def test_a_probe_is_one_call_and_no_retries():
    now = 0.0
    async with mesh() as rig:
        handler = Countdown(1000, SOON)
        factory = rig.client(clock=lambda: now)
        stub = factory.stub(Stub, address(await rig.serve(handler)))
        for _ in range(5):
            with pytest.raises(errors.Unavailable):
                await stub.PredictEta(request())
        now, handler.calls = 60.0, 0
        with pytest.raises(errors.Unavailable):
            await stub.PredictEta(request())
        assert handler.calls == 1
        assert factory.breakers()[0].state is State.OPEN


async def test_an_outage_is_loaded_less_than_one_and_a_tenth_times():
    calls = 300
    async with mesh() as rig:
        handler = Countdown(10**6, SOON)
        stub = rig.stub(await rig.serve(handler), breaker=BreakerPolicy(failures=10**6))
        for _ in range(calls):
            with pytest.raises(errors.Unavailable):
                await stub.PredictEta(request())
    assert handler.calls < 1.1 * calls


async def test_a_caller_that_hammers_an_open_breaker_does_not_starve_its_loop():
    async with mesh() as rig:
        stub = rig.stub(await rig.serve(error_of(grpc.StatusCode.INTERNAL)))
        for _ in range(5):
            with pytest.raises(errors.Internal):
                await stub.PredictEta(request())
        hung = True

        async def hammers() -> None:
            while hung:
                with pytest.raises(errors.Unavailable) as refused:
                    await stub.PredictEta(request())
                assert refused.value.reason == ERROR_REASON_BREAKER_OPEN

        hammer = asyncio.create_task(hammers())
        await asyncio.sleep(0.01)
        hung = False
        await hammer


async def test_breakers_are_per_method():
    async with mesh() as rig:
        factory = rig.client()
        stub = factory.stub(Stub, address(await rig.serve(Eta(error_of(grpc.StatusCode.INTERNAL)))))
        for _ in range(5):
            with pytest.raises(errors.Internal):
                await stub.PredictEta(request())
        stream = stub.StreamGps(iter([gps_stream_pb2.StreamGpsRequest(cursor="1")]))
        assert [answer async for answer in stream] == [gps_stream_pb2.StreamGpsResponse()]
        assert [breaker.state for breaker in factory.breakers()] == [State.OPEN, State.CLOSED]


async def test_listeners_hear_that_a_breaker_opens():
    async with mesh() as rig:
        heard: list[tuple[str, State, State]] = []
        factory = rig.client()
        factory.on_breaker_change(lambda breaker, *change: heard.append((breaker.method, *change)))
        stub = factory.stub(Stub, address(await rig.serve(error_of(grpc.StatusCode.INTERNAL))))
        for _ in range(5):
            with pytest.raises(errors.Internal):
                await stub.PredictEta(request())
    assert heard == [(f"/{SERVICE}/PredictEta", State.CLOSED, State.OPEN)]


# Streams.


async def watched(_request: Any, _context: Any) -> Any:
    for number in range(3):
        yield eta_service_pb2.WatchEtaResponse(cursor=str(number))


async def test_a_stream_is_iterated_or_read():
    async with mesh() as rig:
        stub = rig.stub(await rig.serve(Eta(watch=watched)))
        ask = eta_service_pb2.WatchEtaRequest()
        assert [answer.cursor async for answer in stub.WatchEta(ask)] == ["0", "1", "2"]
        stream = stub.WatchEta(ask)
        read = [await stream.read() for _ in range(4)]
    assert [answer.cursor for answer in read[:3]] == ["0", "1", "2"]
    assert read[3] is grpc.aio.EOF


async def test_requests_of_a_stream_may_be_written_one_by_one():
    async with mesh() as rig:
        stub = rig.stub(await rig.serve(Eta()))
        stream = stub.StreamGps()
        for number in range(3):
            await stream.write(gps_stream_pb2.StreamGpsRequest(cursor=str(number)))
            assert await stream.read() == gps_stream_pb2.StreamGpsResponse()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert stream.done()


async def test_a_stream_ends_with_a_typed_error():
    async def breaks(_request: Any, _context: Any) -> Any:
        yield eta_service_pb2.WatchEtaResponse(cursor="0")
        raise errors.OutOfRange("the cursor is too old")

    async with mesh() as rig:
        stream = rig.stub(await rig.serve(Eta(watch=breaks))).WatchEta(eta_service_pb2.WatchEtaRequest())
        assert (await stream.read()).cursor == "0"
        with pytest.raises(errors.OutOfRange, match="too old"):
            await stream.read()


async def test_a_stream_through_an_open_breaker_is_refused_when_it_is_read():
    async with mesh() as rig:

        async def fails(_request: Any, _context: Any) -> Any:
            raise errors.Internal("broken")
            yield

        stub = rig.stub(await rig.serve(Eta(watch=fails)))
        for _ in range(5):
            with pytest.raises(errors.Internal):
                await stub.WatchEta(eta_service_pb2.WatchEtaRequest()).read()
        refused = stub.WatchEta(eta_service_pb2.WatchEtaRequest())
        with pytest.raises(errors.Unavailable) as error:
            await anext(refused)
    assert error.value.reason == ERROR_REASON_BREAKER_OPEN


async def test_a_stream_that_breaks_after_its_first_message_is_no_mark_against_the_target():
    async def breaks(_request: Any, _context: Any) -> Any:
        yield eta_service_pb2.WatchEtaResponse(cursor="0")
        raise errors.Unavailable("x")

    async with mesh() as rig:
        factory = rig.client()
        stub = factory.stub(Stub, address(await rig.serve(Eta(watch=breaks))))
        for _ in range(6):
            stream = stub.WatchEta(eta_service_pb2.WatchEtaRequest())
            await stream.read()
            with pytest.raises(errors.Unavailable):
                await stream.read()
        assert factory.breakers()[0].state is State.CLOSED


async def test_a_stream_without_a_timeout_runs_as_long_as_the_budget_around_it():
    async def endless(_request: Any, _context: Any) -> Any:
        yield eta_service_pb2.WatchEtaResponse(cursor=str(deadline.remaining()))
        await asyncio.Event().wait()

    async with mesh() as rig:
        stub = rig.stub(await rig.serve(Eta(watch=endless)))
        stream = stub.WatchEta(eta_service_pb2.WatchEtaRequest())
        assert (await stream.read()).cursor == "None"
        stream.cancel()
        with deadline.budget(0.2):
            stream = stub.WatchEta(eta_service_pb2.WatchEtaRequest())
        assert 0 < float((await stream.read()).cursor) < 0.2
        with pytest.raises(errors.DeadlineExceeded):
            await stream.read()
