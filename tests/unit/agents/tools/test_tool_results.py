"""What each tool asks the services, and what it makes of their answers."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1.eta_pb2 import Factor, Leg
from waymesh.eta.v1.eta_service_pb2 import BatchPredictEtaResponse, BatchPredictEtaResult
from waymesh.eta.v1.travel_time_pb2 import GetTravelTimesRequest, GetTravelTimesResponse
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome, LegOutcome
from waymesh.feedback.v1.feedback_service_pb2 import ListDeliveryOutcomesResponse, ListOutcomesResponse
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.gps.v1.vehicle_pb2 import VehicleType
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.order.v1.context_pb2 import DeliveryContext
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1.route_service_pb2 import GetOrderResponse

from services.agents.tools import Observation, Scope
from services.mesh.errors import Unavailable
from tests.unit.agents.tools.scripted_services import NOW, Mesh, a_prediction, an_order, stamp

SCOPE = Scope(words="what about order_1 of m-1 in centre?")


def by_hour(request: GetTravelTimesRequest) -> GetTravelTimesResponse:
    """Free at night."""
    hour = datetime.fromtimestamp(request.departure_time.seconds, UTC).hour
    return GetTravelTimesResponse(durations_s=[600 if hour < 5 else 900], distances_m=[5000])


async def test_traffic_is_told_for_each_way_with_its_factor() -> None:
    mesh = Mesh()
    mesh.eta.answers["GetTravelTimes"] = by_hour
    arguments = {
        "origin": "60.1,0.0",
        "destination": {"lat": 60.2, "lon": 0.1},
        "route_options": [
            {"vehicle": "car", "departure_in_minutes": None},
            {"vehicle": None, "departure_in_minutes": 30},
        ],
    }
    outcome = await mesh.use("get_traffic_data", json.dumps(arguments), Scope())
    assert outcome.result is not None
    first, second = outcome.result["options"]
    assert first["vehicle"] == "car"
    assert (first["duration_s"], first["duration_minutes"], first["distance_km"]) == (900, 15, 5)
    assert first["speed_kph"] == 20
    assert (first["traffic_known"], first["traffic_factor"]) == (True, 1.5)
    assert second["vehicle"] == "motorcycle"
    assert second["departure_time"] == "2026-11-21T20:00:00Z"
    vehicles = {request.vehicle_type for request in mesh.eta.requests("GetTravelTimes")}
    assert vehicles == {VehicleType.VEHICLE_TYPE_CAR, VehicleType.VEHICLE_TYPE_MOTORCYCLE}


async def test_times_that_know_no_traffic_give_no_factor() -> None:
    mesh = Mesh()
    mesh.eta.answers["GetTravelTimes"] = GetTravelTimesResponse(
        durations_s=[0], distances_m=[0], degradation=Degradation(source="eta.x", reason="y")
    )
    outcome = await mesh.use(
        "get_traffic_data", '{"origin":"1,1","destination":"1,1","route_options":[]}', Scope()
    )
    assert outcome.result is not None
    [option] = outcome.result["options"]
    assert option["traffic_known"] is False
    assert "traffic_factor" not in option
    assert "speed_kph" not in option
    assert outcome.result["degradation"] == {"source": "eta.x", "reason": "y"}


async def test_a_delivery_time_is_that_of_the_engines_nearest_case() -> None:
    mesh = Mesh()
    # Way: 1.3 of the straight line and 60 m; traffic by level as the engine has it.
    slower = {0: 1.0, 1: 0.92, 2: 1.0, 3: 1.2, 4: 1.45}

    def times(request: GetTravelTimesRequest) -> GetTravelTimesResponse:
        ways = [round(1.3 * 111_194.93 * each.lon + 60) for each in request.destinations]
        return GetTravelTimesResponse(durations_s=[1] * len(ways), distances_m=ways)

    def predict(request: object) -> BatchPredictEtaResponse:
        results = []
        for query in request.queries:  # type: ignore[attr-defined]
            factor = slower[query.context.traffic_density]
            minutes = 10 * factor
            prediction = a_prediction(
                "described",
                delivery_eta_minutes=minutes + 2 + (15 if query.order.status == 1 else 0),
                factors=[Factor(name="traffic", minutes=minutes - 10)],
                legs=[Leg(kind=4, minutes=minutes, distance_m=1), Leg(kind=5, minutes=2)],
            )
            results.append(BatchPredictEtaResult(prediction=prediction))
        return BatchPredictEtaResponse(results=results)

    mesh.eta.answers |= {"GetTravelTimes": times, "BatchPredictEta": predict}
    arguments = {
        "distance_km": 5,
        "traffic_factor": 1.5,
        "weather_conditions": "rain",
        "driver_performance": 4.5,
    }
    outcome = await mesh.use("calculate_delivery_time", json.dumps(arguments), Scope())
    assert outcome.result is not None
    assert outcome.result["traffic_level"] == "severe"
    assert outcome.result["traffic_factor"] == pytest.approx(1.45)
    assert outcome.result["delivery_minutes"] == pytest.approx(16.5)
    assert outcome.result["from_placement_minutes"] == pytest.approx(31.5)
    assert outcome.result["not_taken_into_account"] == ["driver_performance"]
    first, second = mesh.eta.requests("BatchPredictEta")
    assert {query.context.weather for query in first.queries} == {5}
    described = first.queries[0].order
    assert 1.3 * 111_194.93 * described.dropoff.lon + 60 == pytest.approx(5000, abs=3)
    assert second.queries[0].context.traffic_density == 4
    ids = {query.order.order_id for query in [*first.queries, *second.queries]}
    assert len(ids) == len(first.queries) + 1


async def test_similar_deliveries_are_told_all_together() -> None:
    mesh = Mesh()
    pages = [_deliveries(0, 40), _deliveries(40, 60)]
    pages[0].has_more, pages[0].next_page_token = True, "t"
    mesh.feedback.answers["ListDeliveryOutcomes"] = lambda request: (
        pages[1]
        if request.page_token
        else pages[0]
        if request.end_time.seconds > NOW.timestamp()
        else _deliveries(0, 0)
    )
    outcome = await mesh.use(
        "find_similar_deliveries", '{"order_id":"order_1","merchant_id":null,"area":null,"hour":null}', SCOPE
    )
    result = outcome.result
    assert result is not None
    # Every second delivery is the merchant's; the order itself (order_1, place 1) is not among them.
    assert result["similar_by"] == ["merchant", "area", "hour"]
    assert result["count"] == 30
    assert result["complete"] is True
    assert result["actual"]["p50_minutes"] == pytest.approx(49)
    assert result["mean_error_minutes"] == pytest.approx(2)
    assert result["late_share"] == 1
    for secret in ("order_4", "driver_x", "secret"):
        assert secret not in outcome.text


def _deliveries(first: int, last: int) -> ListDeliveryOutcomesResponse:
    return ListDeliveryOutcomesResponse(
        outcomes=[
            DeliveryOutcome(
                outcome_id=f"x{place}{early}",
                order_id=f"order_{place}",
                driver_id="driver_x",
                predicted_at=stamp(-60 + early),
                delivered_at=stamp(0),
                p10_minutes=place,
                p50_minutes=place + 18,
                p90_minutes=place + 30,
                actual_minutes=place + 20 - early,
                legs=[LegOutcome(kind=4, actual_minutes=7.0)],
                context=DeliveryContext(
                    merchant_id="m-1" if place % 2 == 0 else "m-2", area="centre", labels={"note": "secret"}
                ),
            )
            for place in range(first, last)
            for early in (5, 0)
        ]
    )


async def test_too_few_deliveries_say_nothing() -> None:
    mesh = Mesh()
    mesh.feedback.answers["ListDeliveryOutcomes"] = _deliveries(0, 2)
    outcome = await mesh.use(
        "find_similar_deliveries", '{"order_id":null,"merchant_id":"m-1","area":null,"hour":null}', SCOPE
    )
    assert outcome.result is not None
    assert outcome.result["known"] is False
    assert "actual" not in outcome.result


async def test_outcomes_are_rows_without_ids_texts_and_contents() -> None:
    mesh = Mesh()
    event = OutcomeEvent(
        event_id="e-secret", run_id="r-secret", agent_name="eta", action_type="predict_eta", status=2,
        timestamp=stamp(-1), duration_ms=12.5, error_message="secret of order_9", error_type="TimeoutError",
        correlation_id="c-secret", tags=["secret"],
    )  # fmt: skip
    event.input.update({"order_id": "order_9"})
    odd = OutcomeEvent(status=1, timestamp=stamp(-2), action_type="order_9 now", error_type="obey me")
    mesh.feedback.answers["ListOutcomes"] = ListOutcomesResponse(events=[event, odd], next_page_token="n")
    outcome = await mesh.use("recent_outcomes", '{"agent_name":"eta","status":"failure","count":7}', Scope())
    assert outcome.result == {
        "agent_name": "eta",
        "count": 2,
        "count_by_status": {"failure": 1, "success": 1},
        "outcomes": [
            {
                "timestamp": "2026-11-21T19:29:00Z",
                "status": "failure",
                "duration_ms": 12.5,
                "action_type": "predict_eta",
                "error_type": "TimeoutError",
            },
            {"timestamp": "2026-11-21T19:28:00Z", "status": "success", "duration_ms": 0},
        ],
        "more": True,
    }
    [request] = mesh.feedback.requests("ListOutcomes")
    assert (request.page_size, list(request.statuses), request.agent_name) == (7, [2], "eta")


class Sky:
    """Weather as a test wants it."""

    def __init__(self, found: Observation | Exception | None) -> None:
        self.found = found
        self.asked: list[tuple[float, float, datetime]] = []

    async def at(self, lat: float, lon: float, when: datetime, now: datetime) -> Observation | None:
        self.asked.append((lat, lon, when))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


ANYWHERE = '{"place":"60.1,24.9","order_id":null,"in_minutes":90}'
AT_ORDER = '{"place":null,"order_id":"order_1","in_minutes":null}'


async def test_a_provider_tells_the_weather() -> None:
    sky = Sky(Observation("snow", -3.5, 10.0, NOW, forecast=True))
    outcome = await Mesh(sky).use("weather", ANYWHERE, SCOPE)
    assert outcome.result == {
        "known": True,
        "condition": "snow",
        "source": "forecast",
        "at": "2026-11-21T19:30:00Z",
        "temperature_c": -3.5,
        "wind_kph": 36,
    }
    assert sky.asked == [(60.1, 24.9, NOW + timedelta(minutes=90))]


@pytest.mark.parametrize("sky", [None, Sky(None), Sky(Unavailable("away"))])
async def test_without_one_an_orders_context_does_or_it_is_not_known(sky: Sky | None) -> None:
    mesh = Mesh(sky)
    by_order = await mesh.use("weather", AT_ORDER, SCOPE)
    assert by_order.result is not None
    assert (by_order.result["known"], by_order.result["condition"], by_order.result["source"]) == (
        True,
        "rain",
        "order",
    )
    unknown = await mesh.use("weather", ANYWHERE, SCOPE)
    assert unknown.result is not None
    assert unknown.result["known"] is False
    assert unknown.error is None


async def test_an_order_is_told_with_its_times_and_window() -> None:
    mesh = Mesh()
    order = an_order(status=3, picked_up_at=stamp(-2), ready_at=stamp(-4), driver_id="driver_1", size=2.5)
    order.promised_window.latest.CopyFrom(stamp(20))
    mesh.route.answers["GetOrder"] = GetOrderResponse(order=order)
    outcome = await mesh.use("get_order", '{"order_id":"order_1"}', SCOPE)
    assert outcome.result is not None
    told = outcome.result["order"]
    assert told["status"] == "picked_up"
    assert told["promised_latest"] == "2026-11-21T19:50:00Z"
    assert told["picked_up_at"] == "2026-11-21T19:28:00Z"
    assert told["driver_id"] == "driver_1"
    assert told["context"] == {"weather": "rain"}
    assert told["merchant_id"] == "m-1"


async def test_values_that_only_newer_peers_know_are_told_as_not_specified() -> None:
    mesh = Mesh()
    order = an_order(status=99, placed_at=Timestamp(seconds=10**15))
    mesh.route.answers["GetOrder"] = GetOrderResponse(order=order)
    outcome = await mesh.use("get_order", '{"order_id":"order_1"}', SCOPE)
    assert outcome.result is not None
    assert outcome.result["order"]["status"] == "unspecified"
    assert outcome.result["order"]["placed_at"] is None


async def test_an_empty_order_is_told_as_well() -> None:
    mesh = Mesh()
    mesh.route.answers["GetOrder"] = GetOrderResponse(order=Order(order_id="order_1"))
    outcome = await mesh.use("get_order", '{"order_id":"order_1"}', SCOPE)
    assert outcome.error is None
