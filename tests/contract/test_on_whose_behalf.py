"""For whom a call is made travels from hop to hop, over real sockets."""

from typing import Any

from mesh_rig import Eta, Request, Response, mesh, request
from waymesh.eta.v1 import eta_service_pb2

from services.mesh import principal
from services.mesh.principal import Principal

WHO = Principal("acme", "0123456789ab", "Näht & Söhne")


async def test_every_hop_acts_for_the_same():
    seen: list[Principal] = []

    async def last(_request: Request, _context: Any) -> Response:
        return Response()

    async with mesh() as it:
        stub = await it.hops(last, each=lambda: seen.append(principal.current()))
        token = principal.set_current(WHO)
        try:
            await stub.PredictEta(request())
        finally:
            principal.reset_current(token)
        assert seen == [WHO] * 3


async def test_a_call_for_nobody_in_particular_says_nothing_of_it():
    seen: list[tuple[Principal, set[str]]] = []

    async def predict(_request: Request, context: Any) -> Response:
        seen.append((principal.current(), {key for key, _ in context.invocation_metadata()}))
        return Response()

    async with mesh() as it:
        # What was set where the server was started is not its callers'.
        token = principal.set_current(WHO)
        server = await it.serve(predict)
        principal.reset_current(token)
        await it.stub(server).PredictEta(request())
    [(who, headers)] = seen
    assert who is principal.DEFAULT
    assert not {key for key in headers if key.startswith("x-waymesh")}


async def test_a_stream_carries_it_too():
    seen: list[Principal] = []

    async def watch(_request: Any, _context: Any) -> Any:
        seen.append(principal.current())
        return
        yield

    async with mesh() as it:
        stub = it.stub(await it.serve(Eta(watch=watch)))
        token = principal.set_current(WHO)
        try:
            async for _ in stub.WatchEta(eta_service_pb2.WatchEtaRequest()):
                pass
        finally:
            principal.reset_current(token)
    assert seen == [WHO]
