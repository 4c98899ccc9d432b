"""A long answer is the same text as a short one, and nobody waits for it but who asked."""

import asyncio
from typing import Any

import pytest
from gateway_rig import KEY, Rig, gateway
from waymesh.eta.v1 import travel_time_pb2
from waymesh.mesh.v1 import degradation_pb2

from services.mesh import json_codec

PLACE = {"lat": -23.55, "lon": -46.63}
ASKED = {"origins": [PLACE], "destinations": [PLACE]}
VALUES = 400_000
MATRIX = travel_time_pb2.GetTravelTimesResponse(
    durations_s=range(VALUES),
    distances_m=range(VALUES, 2 * VALUES),
    degradation=degradation_pb2.Degradation(source='"result":null', reason="\\"),
)


async def matrix(_request: Any, _context: Any) -> Any:
    return MATRIX


def ended(rig: Rig, kind: str) -> bool:
    """Whether the span of the RPC (CLIENT) or of the request at the gateway (POST /execute) has ended."""
    return any(kind in (span.name, span.kind.name) for span in rig.spans())


async def test_others_are_answered_while_a_long_answer_is_written() -> None:
    async with gateway({"GetTravelTimes": matrix}) as rig, asyncio.timeout(60):
        other = rig.client()
        asking = asyncio.create_task(rig.client().task("get_travel_times", ASKED))
        answered = 0
        while not ended(rig, "POST /execute"):
            if ended(rig, "CLIENT"):
                assert (await other.ask("GET", "/health/live")).status == 200
                answered += 1
            await asyncio.sleep(0)
        assert (await asking).status == 200
        assert answered > 2  # the last one may have come after the end


@pytest.mark.parametrize(
    ("listener", "path", "key"), [("gateway", "/execute", KEY), ("agent-custom", "/run", None)]
)
async def test_a_long_answer_has_all_that_a_short_one_has(listener: str, path: str, key: str | None) -> None:
    async with gateway({"GetTravelTimes": matrix}) as rig, asyncio.timeout(60):
        client = rig.client(listener)
        reply = await client.task(
            "get_travel_times", ASKED, path=path, key=key, headers={"X-Request-Id": '"result":null'}
        )
        body = reply.json
        assert body["request_id"] == '"result":null'
        assert body["result"] == json_codec.to_dict(MATRIX)
        assert body["degraded"] == {"source": '"result":null', "reason": "\\"}
        last = ["attempt"] if path == "/execute" else ["theme"]
        first = ["request_id", "status", "result", "duration_ms", "service"]
        assert list(body) == [*first, *last, "degraded"]


async def test_hanging_up_ends_the_writing() -> None:
    async with gateway({"GetTravelTimes": matrix}) as rig, asyncio.timeout(60):
        client = rig.client()
        asking = asyncio.create_task(client.task("get_travel_times", ASKED))
        while not ended(rig, "CLIENT"):
            await asyncio.sleep(0)
        await client.close()
        while not ended(rig, "POST /execute"):
            await asyncio.sleep(0)
        assert rig.metric("http_requests_total", listener="gateway", path="/execute", code="499") == 1
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
