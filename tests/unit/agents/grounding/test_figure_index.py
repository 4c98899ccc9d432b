"""Numbers, times and names that sources give, found without a look at all of them."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from services.agents.figure_index import Masks, Moments, Numbers
from services.agents.figure_sources import Given

numbers = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(st.lists(numbers, max_size=30), numbers, st.floats(0, 1e6))
def test_what_is_near_is_found_and_nothing_else(values: list[float], value: float, reach: float) -> None:
    found = Numbers(Given(one) for one in values).near(value, reach)

    sizes = sorted(abs(one.value) for one in found)
    assert sizes == sorted(abs(one) for one in values if abs(value) - reach <= abs(one) <= abs(value) + reach)


def test_what_has_no_end_is_near_nothing() -> None:
    assert Numbers([Given(float("1e300"))]).near(float("inf"), 1.0) == []


def test_a_time_is_told_rounded_or_cut_off() -> None:
    moments = Moments([100.0, 86_390.0])

    assert moments.told(60.0, 60.0)
    assert moments.told(120.0, 60.0)
    assert not moments.told(180.0, 60.0)
    assert moments.told(0.0, 60.0), "midnight"


def test_a_pattern_is_made_when_its_text_stands_there() -> None:
    made: list[str] = []

    def pattern(one: str) -> re.Pattern[str]:
        made.append(one)
        return re.compile(re.escape(one), re.IGNORECASE)

    masks = Masks()
    for one in ("order_1", "order_2", "Order_3"):
        masks.add(one, lambda one=one: pattern(one))

    assert masks.hide("About ORDER_2 and order_3.") == "About _______ and _______."
    assert masks.hide("About order_2.") == "About _______."
    assert made == ["order_2", "Order_3"]
