"""Which numbers a text may name, given what engines said: examples by hand, right and wrong."""

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Factor, Leg, Quantiles
from waymesh.order.v1.context_pb2 import DeliveryContext
from waymesh.order.v1.order_pb2 import Merchant, Order
from waymesh.route.v1.allocation_pb2 import Allocation

from services.agents.grounding import Grounds

# 2026-11-21T19:42:31Z
PREDICTION = EtaPrediction(
    order_id="order_456",
    driver_id="driver_123",
    delivery_eta=Timestamp(seconds=1795290151),
    confidence=0.823,
    factors=[Factor(name="traffic", minutes=3.26), Factor(name="weather", minutes=-1.1)],
    delivery_eta_minutes=23.4,
    delivery=Quantiles(p10_minutes=18.2, p50_minutes=23.4, p90_minutes=71.6),
    legs=[Leg(kind=2, minutes=6.25, distance_m=1432.0)],
    base_minutes=21.3,
)
RESULT = {
    "duration_s": 432,
    "distance_m": 5210,
    "speed_kph": 43.4,
    "traffic_factor": 1.21,
    "at": "2026-11-21T19:42:31Z",
    "temperature_c": -3.5,
    "late_share": 0.25,
    "count": 17,
    "engine_text": ["at the pickup in 4.5 min, food ready 2.0 min later"],
    "untrusted_text": {"merchant_name": "Pizza 99", "items": ["8 wings", "arrives in 6 minutes"]},
    "asked": {"distance_km": 77},
}

RIGHT = [
    "It takes 23.4 minutes.",
    "It takes 23 minutes, 18 to 72 minutes from P10 to P90.",
    "At most 1 h 12 min, or 1.2 hours.",
    "The chance is 82%, or 82.3%, or 0.82.",
    "Traffic adds 3.3 minutes, the weather saves 1.1 minutes (-1.1).",
    "Traffic adds 3.26 min, that is 196 seconds.",
    "It comes at 19:42 UTC, or 19:43, or 7:42 pm, on 2026-11-21 or 21 November 2026.",
    "The first leg is 1.4 km (1,432 m) and takes 6.25 minutes.",
    "Order order_456 is with driver_123; 1 leg and 2 factors.",
    "order_456 takes twenty-three minutes.",
]
WRONG = [
    ("It takes 24 minutes.", ["24 minutes"]),
    ("It takes 23.5 minutes.", ["23.5 minutes"]),
    ("It takes 23.4 km.", ["23.4 km"]),
    ("It takes 23 hours.", ["23 hours"]),
    ("It takes 18 to 73 minutes.", ["73 minutes"]),
    ("It takes 17 to 72 minutes.", ["17"]),
    ("At most 1 h 13 min.", ["1 h 13 min"]),
    ("The chance is 83%.", ["83%"]),
    ("The chance is 0.83.", ["0.83"]),
    ("Traffic adds -3.3 minutes.", ["3.3 minutes"]),
    ("The weather adds +1.1 minutes.", ["1.1 minutes"]),
    ("It comes at 19:44.", ["19:44"]),
    ("It comes at 7:42 am.", ["7:42 am"]),
    ("It comes on 22 November.", ["22 November"]),
    ("The leg is 1.5 km.", ["1.5 km"]),
    ("Traffic and way are 26.66 minutes in all.", ["26.66 minutes"]),
    ("456 minutes", ["456 minutes"]),
    ("It takes 123 minutes for order_456.", ["123 minutes"]),
    ("It takes twenty-four minutes.", ["twenty-four minutes"]),
    ("It takes half an hour.", ["half an hour"]),
    ("It takes an hour.", ["an hour"]),
    ("It takes twice as long for 7 couriers.", ["7"]),
    ("There are 23 couriers.", ["23"]),
]


@pytest.mark.parametrize("text", RIGHT)
def test_rounding_and_other_units_are_fine(text: str) -> None:
    assert Grounds(PREDICTION).ungrounded(text) == []


@pytest.mark.parametrize(("text", "wrong"), WRONG)
def test_what_nobody_gave_is_told(text: str, wrong: list[str]) -> None:
    assert Grounds(PREDICTION).ungrounded(text) == wrong


@pytest.mark.parametrize(
    "text",
    [
        "432 s, 7 minutes, 7.2 min, 5.2 km, 5,210 m, 43 km/h and a factor of 1.21 (1.2 times).",
        "25% of 17 are late, at -3.5 °C, at 19:42.",
        "At the pickup in 4.5 minutes, the food 2 minutes later.",
        "Pizza 99 is the merchant.",
    ],
)
def test_results_of_tools_give_numbers_by_their_names(text: str) -> None:
    assert Grounds(RESULT).ungrounded(text) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("It takes 99 minutes.", ["99 minutes"]),
        ("There are 8 couriers.", ["8"]),
        ("It arrives in 6 minutes.", ["6 minutes"]),
        ("It is 77 km away.", ["77 km"]),
        ("It is 17 minutes late.", ["17 minutes"]),
        ("432 couriers", ["432"]),
        ("at 3.5 °C more: +3.5 °C", ["3.5 °C"]),
    ],
)
def test_texts_from_outside_and_what_was_asked_give_none(text: str, wrong: list[str]) -> None:
    assert Grounds(RESULT).ungrounded(text) == wrong


def test_a_struct_is_as_good_as_a_mapping() -> None:
    struct = Struct()
    struct.update({"delivery_eta_minutes": 12.3, "nested": [{"distance_m": 900}]})
    assert Grounds(struct).ungrounded("12 minutes, 0.9 km, 13 minutes") == ["13 minutes"]


def test_a_callers_text_gives_its_numbers_with_their_units() -> None:
    grounds = Grounds("Why 45 minutes for 3 stops since 10:30?")
    assert grounds.ungrounded("45 minutes, 3 stops, 10:30") == []
    assert grounds.ungrounded("45 km, 46 minutes, 4 stops, 10:31") == ["45 km", "46 minutes", "4", "10:31"]


def test_an_id_that_is_a_number_grounds_itself_where_ids_stand_and_nothing_else() -> None:
    grounds = Grounds(EtaPrediction(order_id="456", driver_id="12"))
    assert grounds.ungrounded("Order 456 is with courier 12, and order #456 too.") == []
    assert grounds.ungrounded("It takes 456 minutes.") == ["456 minutes"]
    assert grounds.ungrounded("Order 456 minutes") == ["456 minutes"]
    assert grounds.ungrounded("456 couriers and 12 stops") == ["456", "12"]


@pytest.mark.parametrize(
    "said",
    [
        "order no 17",
        "order no. 17",
        "no.17",
        "order number 17",
        "id 17",
        "orders: 17",
        "courier id '17'",
        "#17",
    ],
)
def test_an_id_that_is_a_number_may_stand_where_ids_do(said: str) -> None:
    assert Grounds(EtaPrediction(order_id="17")).ungrounded(f"This is {said}.") == []


@pytest.mark.parametrize("said", ["no 17 couriers", "there is no 17", "casino 17"])
def test_an_id_that_is_a_number_stands_nowhere_else(said: str) -> None:
    assert Grounds(EtaPrediction(order_id="17")).ungrounded(f"This is {said}.") != []


@pytest.mark.parametrize("order_id", ["5min", "twenty", "7pm", "12:34", "12km", "1e3"])
def test_an_id_that_reads_as_a_measure_grounds_no_measure(order_id: str) -> None:
    grounds = Grounds(EtaPrediction(order_id=order_id))
    assert grounds.ungrounded(f"It comes, in or at, {order_id}") == [order_id]
    assert grounds.ungrounded(f"It is order {order_id}.") == []


@pytest.mark.parametrize("order_id", ["doubled", "TRIPLE"])
def test_an_id_that_is_a_number_only_before_a_stop_is_an_id_there(order_id: str) -> None:
    grounds = Grounds(EtaPrediction(order_id=order_id))
    assert grounds.ungrounded(f"It is order {order_id}.") == []
    assert grounds.ungrounded(f"The time has {order_id}.") == [order_id]


def test_enums_flags_and_revisions_are_not_measures() -> None:
    order = Order(order_id="o", revision=7, status=3, merchant=Merchant(name="Bar 33"))
    assert Grounds(order).ungrounded("7 minutes") == ["7 minutes"]
    assert Grounds(order).ungrounded("3 couriers") == ["3"]
    assert Grounds(order).ungrounded("33 couriers") == ["33"]


def test_a_customers_own_labels_ground_nothing_and_own_numbers_go_by_their_names() -> None:
    context = DeliveryContext(numbers={"queue_minutes": 9.5}, labels={"note": "arrives in 77 minutes"})
    assert Grounds(context).ungrounded("9.5 minutes and 77 minutes") == ["77 minutes"]


def test_sentences_of_engines_ground_and_names_do_not() -> None:
    allocation = Allocation(order_id="o", reasoning=["at the pickup in 8.2 min"], allocation_score=91.26)
    assert Grounds(allocation).ungrounded("8 minutes, a score of 91.3") == []
    assert Grounds({"label": "8.2 min"}).ungrounded("8.2 minutes") == ["8.2 minutes"]


def test_items_of_a_list_may_be_counted_and_places_in_it_named() -> None:
    grounds = Grounds({"stops": [{}, {}, {}, {}]})
    assert grounds.ungrounded("4 stops; stop 2; step 4") == []
    assert grounds.ungrounded("5 stops; stop 6") == ["5", "stop 6"]


def test_nothing_is_nothing_in_any_unit() -> None:
    assert Grounds({"lateness_minutes": 0.0}).ungrounded("0 minutes late, zero delay") == []
    assert Grounds({"lateness_minutes": 4.0}).ungrounded("zero delay") == ["zero"]


def test_an_answer_in_a_shape_is_looked_through_as_well() -> None:
    shaped = (
        '{"order_id": "456", "pickup_eta_minutes": 6, "delivery_eta_minutes": 23.4, "confidence_score": %s}'
    )
    source = EtaPrediction(order_id="456", pickup_eta_minutes=6.2, delivery_eta_minutes=23.4, confidence=0.82)
    assert Grounds(source).ungrounded(shaped % "0.82") == []
    assert Grounds(source).ungrounded(shaped % "0.91") == ["0.91"]


def test_what_is_no_number_at_all_is_left_alone() -> None:
    assert Grounds({"a_minutes": float("nan"), "b_minutes": float("inf"), "c": True}).ungrounded("fine") == []
    assert Grounds().ungrounded("1 minute") == ["1 minute"]
