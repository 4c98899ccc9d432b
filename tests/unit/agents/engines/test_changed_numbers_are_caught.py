"""A number of a right explanation that is changed is caught, unless some engine's number rounds to it.

What rounds to what is decided here by a reader of its own: a few patterns, and lists of the numbers that the
answer's fields hold.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Factor, Leg, Quantiles
from waymesh.route.v1.route_pb2 import RouteAlternative, RouteOptimization, RoutePlan, Stop
from waymesh.route.v1.route_service_pb2 import OptimizeRouteResponse

from services.agents.engines import explain_eta, explain_route
from services.agents.grounding import Grounds
from tests.examples import examples

_minutes = st.floats(0.1, 95)
_predictions = st.builds(
    EtaPrediction,
    order_id=st.sampled_from(["order_456", "456", "o-31"]),
    driver_id=st.sampled_from(["driver_123", "17"]),
    confidence=st.floats(0.05, 0.95),
    promise_probability=st.floats(0.05, 0.95),
    delivery_eta=st.builds(Timestamp, seconds=st.integers(1_700_000_000, 1_900_000_000)),
    pickup_eta=st.builds(Timestamp, seconds=st.integers(1_700_000_000, 1_900_000_000)),
    pickup_eta_minutes=_minutes,
    delivery_eta_minutes=_minutes,
    base_minutes=_minutes,
    factors=st.lists(
        st.builds(Factor, name=st.sampled_from(["traffic", "weather"]), minutes=_minutes), max_size=3
    ),
    legs=st.lists(
        st.builds(Leg, kind=st.integers(1, 5), minutes=_minutes, distance_m=st.floats(0, 9000)), max_size=4
    ),
    delivery=st.builds(Quantiles, p10_minutes=_minutes, p50_minutes=_minutes, p90_minutes=_minutes),
)
_stops = st.builds(
    Stop,
    order_id=st.sampled_from(["order_456", "456", "o-31"]),
    kind=st.integers(1, 2),
    wait_minutes=st.floats(0, 20),
    lateness_minutes=st.floats(0, 20),
)
_plans = st.builds(
    RoutePlan,
    stops=st.lists(_stops, min_size=1, max_size=4),
    duration_minutes=_minutes,
    distance_m=st.floats(100, 20_000),
    food_wait_minutes=_minutes,
)
_routes = st.builds(
    OptimizeRouteResponse,
    plan=_plans,
    optimization=st.builds(
        RouteOptimization,
        driver_id=st.sampled_from(["driver_123", "17"]),
        time_savings=_minutes,
        original_distance_m=st.floats(100, 20_000),
        optimized_distance_m=st.floats(100, 20_000),
    ),
    alternatives=st.lists(
        st.builds(
            RouteAlternative, plan=_plans, extra_minutes=_minutes, extra_distance_m=st.floats(-5000, 5000)
        ),
        max_size=2,
    ),
)
_NUMBER = re.compile(r"(?P<digits>\d+(?:\.\d+)?)(?P<unit> minutes| m\b| km|%)|(?P<clock>\d\d:\d\d)")


def _fields(value: object, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _fields(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _fields(each, name)
    elif isinstance(value, float):
        yield name, value


def _rounds_to(said: Message, digits: str, unit: str) -> bool:
    """Whether a field of the prediction, rounded to as many digits, is the number."""
    fields = list(_fields(MessageToDict(said, preserving_proto_field_name=True)))
    half = 0.5 * 10 ** -len(digits.partition(".")[2]) + 1e-9
    match unit:
        case " minutes":
            given_ = [value for name, value in fields if name.endswith("minutes") or name == "time_savings"]
        case " m":
            given_ = [abs(value) for name, value in fields if name.endswith("distance_m")]
        case " km":
            given_ = [abs(value) / 1000 for name, value in fields if name.endswith("distance_m")]
        case _:
            given_ = [100 * value for name, value in fields if name in ("confidence", "promise_probability")]
    # Fields that are 0 are not written, so that they are not among these.
    return float(digits) == 0 or any(abs(value - float(digits)) <= half for value in given_)


def _is_time(said: Message, clock: str) -> bool:
    assert isinstance(said, EtaPrediction)
    for seconds in (said.delivery_eta.seconds, said.pickup_eta.seconds):
        for shift in (0, 30):
            if datetime.fromtimestamp(seconds + shift, UTC).strftime("%H:%M") == clock:
                return True
    return False


@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(st.one_of(_predictions, _routes), st.integers(0, 30), st.sampled_from([-10, -3, -2, -1, 1, 2, 3, 10]))
@example(EtaPrediction(delivery_eta_minutes=23.4), 0, 1)
def test_a_changed_number_is_caught(said: Message, which: int, by: int) -> None:
    text = explain_route(said) if isinstance(said, OptimizeRouteResponse) else explain_eta(said)
    grounds = Grounds(said)
    assert grounds.ungrounded(text) == []
    numbers = list(_NUMBER.finditer(text))
    number = numbers[which % len(numbers)]
    if number["clock"]:
        hour, minute = int(number["clock"][:2]), int(number["clock"][3:])
        total = (hour * 60 + minute + by) % 1440
        changed = f"{total // 60:02d}:{total % 60:02d}"
        assume(not _is_time(said, changed))
        instead = changed
    else:
        decimals = len(number["digits"].partition(".")[2])
        value = float(number["digits"]) + by * 10**-decimals
        assume(value > 0)
        changed = f"{value:.{decimals}f}"
        assume(not _rounds_to(said, changed, number["unit"]))
        instead = changed + number["unit"]
    start, end = number.span()
    lie = text[:start] + instead + text[end:]
    caught = grounds.ungrounded(lie)
    assert any(changed in each for each in caught), (lie, caught)


@settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    _predictions,
    st.integers(2, 400),
    st.sampled_from(["minutes", "km", "m", "%", "hours", "seconds", "couriers"]),
)
def test_a_number_that_is_put_in_is_caught(prediction: EtaPrediction, number: int, unit: str) -> None:
    seconds = {"minutes": 60.0, "hours": 3600.0, "seconds": 1.0}
    fields = list(_fields(MessageToDict(prediction, preserving_proto_field_name=True)))
    metres = [value for name, value in fields if name == "distance_m"]
    minutes = [value for name, value in fields if name.endswith("minutes")]
    shares = [value for name, value in fields if name in ("confidence", "promise_probability")]
    if unit in seconds:
        near = any(abs(value * 60 - number * seconds[unit]) <= seconds[unit] / 2 for value in minutes)
    elif unit in ("km", "m"):
        scale = 1000 if unit == "km" else 1
        near = any(abs(value - number * scale) <= scale / 2 for value in metres)
    elif unit == "%":
        near = any(abs(100 * value - number) <= 0.5 for value in shares)
    else:
        near = number in (len(prediction.legs), len(prediction.factors))
    assume(not near)
    assert Grounds(prediction).ungrounded(f"It is {number} {unit} for order_456.") == [
        str(number) if unit == "couriers" else f"{number} {unit}"
    ]
