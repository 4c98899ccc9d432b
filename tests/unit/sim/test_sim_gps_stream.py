"""The sender of fixes against a real gRPC server that breaks the stream."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.eta.v1.eta_service_pb2 import WatchEtaRequest, WatchEtaResponse
from waymesh.eta.v1.gps_stream_pb2 import StreamGpsRequest, StreamGpsResponse
from waymesh.gps.v1.gps_pb2 import GpsEvent

from services.sim.gps_stream import GpsSender
from services.sim.watch import PredictionWatch


class Eta(eta_service_pb2_grpc.EtaServiceServicer):
    """Keeps what is acknowledged; ends every stream after so many batches, before their acknowledgement."""

    def __init__(
        self, break_after: int | None = None, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    ) -> None:
        self.break_after = break_after
        self.code = code
        self.taken: list[str] = []
        self.streams = 0
        self.cursors: list[str] = []

    async def StreamGps(
        self, request_iterator: AsyncIterator[StreamGpsRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[StreamGpsResponse]:
        self.streams += 1
        count = 0
        async for request in request_iterator:
            count += 1
            if self.break_after is not None and count > self.break_after:
                await context.abort(self.code, "going")
            self.taken += [event.event_id for event in request.events]
            yield StreamGpsResponse(cursor=request.cursor, accepted=len(request.events))

    async def WatchEta(
        self, request: WatchEtaRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[WatchEtaResponse]:
        self.cursors.append(request.cursor)
        start = int(request.cursor or 0)
        yield WatchEtaResponse(cursor=str(start))
        for number in range(start + 1, start + 4):
            yield WatchEtaResponse(prediction=EtaPrediction(order_id=str(number)), cursor=str(number))
        if len(self.cursors) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going")
        await asyncio.Event().wait()


async def served(servicer: Eta) -> tuple[grpc.aio.Server, grpc.aio.Channel]:
    server = grpc.aio.server()
    eta_service_pb2_grpc.add_EtaServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, grpc.aio.insecure_channel(f"127.0.0.1:{port}")


def batches(count: int) -> list[list[GpsEvent]]:
    return [[GpsEvent(event_id=f"{number}-{place}") for place in range(3)] for number in range(count)]


@pytest.mark.parametrize("break_after", [None, 1, 3])
async def test_every_fix_arrives_in_order_through_breaks(break_after: int | None) -> None:
    servicer = Eta(break_after)
    server, channel = await served(servicer)
    sender = GpsSender(eta_service_pb2_grpc.EtaServiceStub(channel), in_flight=2)
    sent = batches(7)
    for batch in sent:
        await sender.send(batch)
    await sender.finish()
    assert list(dict.fromkeys(servicer.taken)) == [event.event_id for batch in sent for event in batch]
    assert sender.accepted == 21
    assert (servicer.streams > 1) == (break_after is not None)
    assert sender.latencies.count == 7
    await sender.close()
    await channel.close()
    await server.stop(None)


async def test_a_refusal_is_told_to_who_sends() -> None:
    server, channel = await served(Eta(0, grpc.StatusCode.INVALID_ARGUMENT))
    sender = GpsSender(eta_service_pb2_grpc.EtaServiceStub(channel), in_flight=1)

    async def send_all() -> None:
        for batch in batches(5):
            await sender.send(batch)
        await sender.finish()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await send_all()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await sender.close()
    await channel.close()
    await server.stop(None)


async def test_a_watch_goes_on_behind_the_last_prediction_it_saw() -> None:
    servicer = Eta()
    server, channel = await served(servicer)
    seen: list[str] = []
    watch = PredictionWatch(
        eta_service_pb2_grpc.EtaServiceStub(channel), lambda prediction: seen.append(prediction.order_id)
    )
    await watch.start()
    assert await watch.until(lambda: len(seen) >= 9, 30)
    assert seen == [str(number) for number in range(1, 10)]
    assert servicer.cursors == ["", "3", "6"]
    await watch.close()
    await channel.close()
    await server.stop(None)
