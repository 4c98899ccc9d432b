"""Handlers know things by qualified ids and callers by plain ones, over real sockets."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from mesh_rig import Eta, Request, Response, mesh, request
from waymesh.eta.v1 import eta_pb2, eta_service_pb2, gps_stream_pb2
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_ORDER_UNKNOWN

from services.mesh import principal
from services.mesh.errors import FieldViolation, Internal, InvalidArgument, NotFound
from services.mesh.principal import MESH, Principal, acting

ACME = Principal("acme")
LONGEST = "x" * 128


class Seen:
    """Answers with what it is asked for, and remembers how it was called here."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def __call__(self, message: Request, _context: Any) -> Response:
        self.ids.append(message.query.order_id)
        return Response(prediction=eta_pb2.EtaPrediction(order_id=message.query.order_id))


@pytest.mark.parametrize(
    ("who", "sent", "known_as"),
    [
        (principal.DEFAULT, "o1", "o1"),
        (principal.DEFAULT, "acme/o1", "default/acme/o1"),
        (ACME, "o1", "acme/o1"),
        (ACME, "acme/o1", "acme/acme/o1"),
        (ACME, "default/o1", "acme/default/o1"),
        (ACME, LONGEST, f"acme/{LONGEST}"),
    ],
)
async def test_a_handler_knows_a_thing_by_whose_it_is(who: Principal, sent: str, known_as: str):
    seen = Seen()
    async with mesh() as it:
        stub = it.stub(await it.serve(seen, qualified=True))
        with acting(who):
            answer = await stub.PredictEta(request(sent))
    assert seen.ids == [known_as]
    assert answer.prediction.order_id == sent


async def test_a_server_that_does_not_ask_for_it_sees_what_was_sent():
    seen = Seen()
    async with mesh() as it:
        stub = it.stub(await it.serve(seen))
        with acting(ACME):
            await stub.PredictEta(request("o1"))
    assert seen.ids == ["o1"]


@pytest.mark.parametrize("sent", ["acme/o1", "o1", f"acme/{LONGEST}"])
async def test_for_the_mesh_ids_go_along_as_they_are(sent: str):
    seen = Seen()
    async with mesh() as it:
        stub = it.stub(await it.serve(seen, qualified=True))
        with acting(MESH):
            answer = await stub.PredictEta(request(sent))
    assert seen.ids == [sent]
    assert answer.prediction.order_id == sent


@pytest.mark.parametrize("who", [ACME, MESH])
async def test_the_rules_are_about_plain_ids(who: Principal):
    too_long = f"{LONGEST}x" if who is ACME else f"acme/{LONGEST}x"
    async with mesh() as it:
        stub = it.stub(await it.serve(Seen(), qualified=True))
        with acting(who), pytest.raises(InvalidArgument) as refused:
            await stub.PredictEta(request(too_long))
    assert [each.field for each in refused.value.violations] == ["query.order_id"]


async def test_an_error_names_things_as_the_caller_does():
    async def unknown(message: Request, _context: Any) -> Response:
        raise NotFound(
            f"order {message.query.order_id} is not known",
            reason=ERROR_REASON_ORDER_UNKNOWN,
            metadata={"order_id": message.query.order_id},
            violations=[FieldViolation("query.order_id", f"{message.query.order_id} is not known")],
        )

    async with mesh() as it:
        stub = it.stub(await it.serve(unknown, qualified=True))
        told = []
        for who in (principal.DEFAULT, ACME):
            with acting(who), pytest.raises(NotFound) as raised:
                await stub.PredictEta(request("o1"))
            told.append((raised.value.message, raised.value.metadata, raised.value.violations))
    assert told[0] == told[1]
    assert told[0][1] == {"order_id": "o1"}


async def test_a_thing_of_another_tenant_in_an_answer_is_a_fault_that_tells_nothing():
    async def leaks(_message: Request, _context: Any) -> Response:
        return Response(prediction=eta_pb2.EtaPrediction(order_id="bolt/o1", model_version="secret"))

    async with mesh() as it:
        stub = it.stub(await it.serve(leaks, qualified=True))
        with acting(ACME), pytest.raises(Internal) as raised:
            await stub.PredictEta(request("o1"))
    assert "bolt" not in f"{raised.value} {raised.value.metadata}"


async def test_streams_are_told_plain_ids_and_what_is_told_to_several_stays_as_it_is():
    shared = eta_service_pb2.WatchEtaResponse(prediction=eta_pb2.EtaPrediction(order_id="acme/o1"))
    asked: list[str] = []

    async def watch(message: Any, _context: Any) -> AsyncIterator[Any]:
        asked.extend(message.order_ids)
        yield shared
        yield shared

    async with mesh() as it:
        stub = it.stub(await it.serve(Eta(watch=watch), qualified=True))
        with acting(ACME):
            wanted = eta_service_pb2.WatchEtaRequest(order_ids=["o1"])
            told = [one.prediction.order_id async for one in stub.WatchEta(wanted)]
    assert (asked, told) == (["acme/o1"], ["o1", "o1"])
    assert shared.prediction.order_id == "acme/o1"


async def test_a_stream_that_would_tell_anothers_thing_ends():
    async def watch(_message: Any, _context: Any) -> AsyncIterator[Any]:
        for order_id in ("acme/o1", "bolt/o1"):
            yield eta_service_pb2.WatchEtaResponse(prediction=eta_pb2.EtaPrediction(order_id=order_id))

    async with mesh() as it:
        stub = it.stub(await it.serve(Eta(watch=watch), qualified=True))
        with acting(ACME):
            told = aiter(stub.WatchEta(eta_service_pb2.WatchEtaRequest()))
            assert (await anext(told)).prediction.order_id == "o1"
            with pytest.raises(Internal):
                await anext(told)


@pytest.mark.parametrize(
    ("options", "known_as"),
    [({}, "acme/c1"), ({"as_they_are": ["/waymesh.eta.v1.EtaService/StreamGps"]}, "c1")],
)
async def test_each_message_of_a_request_stream_is_qualified(options: dict[str, Any], known_as: str):
    seen: list[str] = []

    class Door(Eta):
        async def StreamGps(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
            async for batch in request_iterator:
                seen.extend(event.driver_id for event in batch.events)
                yield gps_stream_pb2.StreamGpsResponse(cursor=batch.cursor)

    async def batches() -> AsyncIterator[Any]:
        for _ in range(2):
            yield gps_stream_pb2.StreamGpsRequest(events=[GpsEvent(driver_id="c1")])

    async with mesh() as it:
        stub = it.stub(await it.serve(Door(), qualified=True, **options))
        with acting(ACME):
            assert len([one async for one in stub.StreamGps(batches())]) == 2
    assert seen == [known_as] * 2
