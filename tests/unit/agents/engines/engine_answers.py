"""Answers of engines as Hypothesis makes them: everyday ones, and as odd as the contracts allow."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st
from waymesh.agent.v1.task_pb2 import CourierRoute, DeliveryPlan, PlanDeliveryResponse
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Factor, Leg, Quantiles
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.route.v1.allocation_pb2 import Allocation, AlternativeDriver
from waymesh.route.v1.route_pb2 import RouteAlternative, RouteOptimization, RoutePlan, Stop
from waymesh.route.v1.route_service_pb2 import OptimizeRouteResponse

_ODD = [0.0, -0.0, 0.04, 0.05, 0.5, 0.95, 9.949, 9.95, 9.96, 59.5, 99.4, 99.5, 99.6, 1439.9, 1e6, 1e12, 1e-9]
durations = st.one_of(st.floats(0, 240), st.sampled_from(_ODD))
signed = st.one_of(
    durations, durations.map(lambda value: -value), st.sampled_from([float("inf"), float("nan")])
)
distances = st.one_of(
    st.floats(0, 50_000), st.sampled_from([0.0, 0.4, 0.6, 994.4, 994.6, 999.9, 1000.0, 1e9])
)
shares = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.004, 0.005, 0.5, 0.995, 0.996, 1.0]))
times = st.builds(
    Timestamp,
    seconds=st.one_of(
        st.integers(1_700_000_000, 1_900_000_000),
        st.sampled_from([0, -62135596800, 253402300799, -1, 4 * 10**12]),
    ),
    nanos=st.sampled_from([0, 1, 500_000_000, 999_999_999]),
)
ids = st.one_of(
    st.sampled_from(
        [
            "order_456",
            "driver_123",
            "456",
            "12",
            "o-1",
            "7pm",
            "5min",
            "twenty",
            "12:34",
            "shop:12/7",
            "",
            "a b 12",
            "№5",
        ]
    ),
    st.text("abc019_-:", min_size=1, max_size=12),
    st.text(max_size=8),
)
reasons = st.one_of(
    st.sampled_from(
        [
            "12.0 min shorter, 1.2 km less way",
            "at the pickup in 8.2 min, food ready 3.0 min later",
            "goes with order_7, 88: 3.4 min more for the courier",
            "2.5 min of work cheaper than driver_99, the next best",
            "no courier has the skills age 18, 7 tesla",
            "no courier within reach",
            "is assigned",
            "is picked_up",
            "is delivered",
            "is cancelled",
            "not known",
            "",
        ]
    ),
    st.text(max_size=40),
)
quantiles = st.builds(
    lambda three: Quantiles(p10_minutes=three[0], p50_minutes=three[1], p90_minutes=three[2]),
    st.tuples(durations, durations, durations).map(sorted),
)
_names = [
    "traffic",
    "weather",
    "courier_pace",
    "merchant",
    "batch",
    "pickup_correction",
    "steadiness",
    "queue 14",
]
factors = st.builds(Factor, name=st.sampled_from(_names), minutes=signed)
legs = st.builds(Leg, kind=st.integers(0, 5), minutes=durations, distance_m=distances)


def _some(**fields: Any) -> dict[str, st.SearchStrategy[Any]]:
    """Fields that may be missing."""
    return {name: st.one_of(st.none(), value) for name, value in fields.items()}


predictions = st.builds(
    EtaPrediction,
    order_id=ids,
    confidence=shares,
    factors=st.lists(factors, max_size=8),
    delivery_eta_minutes=durations,
    legs=st.lists(legs, max_size=5),
    base_minutes=durations,
    **_some(
        driver_id=ids,
        pickup_eta=times,
        delivery_eta=times,
        timestamp=times,
        pickup_eta_minutes=durations,
        pickup=quantiles,
        delivery=quantiles,
        promise_probability=shares,
    ),
)
stops = st.builds(
    Stop,
    order_id=ids,
    kind=st.integers(0, 2),
    wait_minutes=durations,
    lateness_minutes=durations,
    distance_m=distances,
    **_some(time=times),
)
plans = st.builds(
    RoutePlan,
    stops=st.lists(stops, max_size=8),
    duration_minutes=durations,
    distance_m=distances,
    lateness_minutes=durations,
    food_wait_minutes=durations,
)
routes = st.builds(
    OptimizeRouteResponse,
    optimization=st.builds(
        RouteOptimization,
        driver_id=ids,
        time_savings=signed,
        reason=reasons,
        original_distance_m=distances,
        optimized_distance_m=distances,
    ),
    plan=plans,
    alternatives=st.lists(
        st.builds(
            RouteAlternative, plan=plans, extra_minutes=signed, extra_distance_m=distances, reason=reasons
        ),
        max_size=4,
    ),
    **_some(degradation=st.just(Degradation(source="route.fallback_travel_times", reason="eta: 14 s"))),
)
allocations = st.builds(
    Allocation,
    order_id=ids,
    assigned_driver_id=ids,
    allocation_score=st.floats(0, 100),
    reasoning=st.lists(reasons, max_size=3),
    alternative_drivers=st.lists(
        st.builds(AlternativeDriver, driver_id=ids, score=st.floats(0, 100)), max_size=2
    ),
    **_some(estimated_pickup_time=times),
)
delivery_plans = st.builds(
    PlanDeliveryResponse,
    plans=st.lists(
        st.builds(
            DeliveryPlan,
            order_id=ids,
            unallocated_reason=reasons,
            **_some(allocation=allocations, prediction=predictions),
        ),
        max_size=6,
    ),
    routes=st.lists(st.builds(CourierRoute, driver_id=ids, plan=plans), max_size=3),
)
questions = st.one_of(
    st.sampled_from(
        ["", "why so late?", "when is it picked up?", "how sure is that?", "what if I change it?"]
    ),
    st.text(max_size=20),
)
