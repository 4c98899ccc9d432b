"""Travel tables and what eta's forecasts teach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.route.fleet import CourierState, OrderWork
from services.route.forecast import Forecast, choose_pairs, corrected, corrections, seconds_between
from services.route.limits import DETOUR, SPEED_KPH, Vehicle
from services.route.travel import MatrixSizeError, Place, distance_m, fallback, matrix, plane

NOW = 1_700_000_000.0


def test_a_degree_along_the_equator_is_111_km() -> None:
    assert distance_m(Place(0, 0), Place(0, 1)) == pytest.approx(111_195, abs=1)
    assert distance_m(Place(0, 179.5), Place(0, -179.5)) == pytest.approx(111_195, abs=1)


@given(
    st.builds(Place, st.floats(-90, 90), st.floats(-180, 180)),
    st.builds(Place, st.floats(-90, 90), st.floats(-180, 180)),
)
def test_distances_are_symmetric_and_finite(a: Place, b: Place) -> None:
    assert 0 <= distance_m(a, b) <= 20_016_000
    assert distance_m(a, b) == pytest.approx(distance_m(b, a), abs=1e-6)


def test_a_plane_has_straight_lines_and_one_speed() -> None:
    travel = plane([Place(0, 0), Place(0, 0.01)], 36.0)
    assert travel.metres == ((0, 1112), (1112, 0))
    assert travel.seconds == ((0, 112), (112, 0))


def test_the_fallback_has_a_detour_and_the_speed_of_the_vehicle() -> None:
    travel = fallback([Place(0, 0), Place(0, 0.01)], Vehicle.BICYCLE)
    assert travel.metres[0][1] == pytest.approx(1112 * DETOUR, abs=1)
    assert travel.seconds[0][1] == pytest.approx(1112 * DETOUR / (SPEED_KPH[Vehicle.BICYCLE] / 3.6), abs=1)


def test_a_matrix_is_read_row_by_row() -> None:
    travel = matrix([0, 1, 2, 0], [0, 10, 20, 0], [Place(0, 0), Place(0, 1)])
    assert travel.seconds == ((0, 1), (2, 0))
    assert travel.metres == ((0, 10), (20, 0))


@pytest.mark.parametrize(("durations", "distances"), [([0] * 3, []), ([0] * 4, [0] * 5), ([0] * 9, [])])
def test_a_matrix_that_does_not_fit_is_refused(durations: list[int], distances: list[int]) -> None:
    with pytest.raises(MatrixSizeError):
        matrix(durations, distances, [Place(0, 0), Place(0, 1)])


def test_every_order_is_asked_about_before_any_is_asked_about_twice() -> None:
    listed = {"a": ["d1", "d2"], "b": ["d1"], "c": []}
    assert choose_pairs(listed, 1000) == [("a", "d1"), ("b", "d1"), ("a", "d2")]
    assert choose_pairs(listed, 2) == [("a", "d1"), ("b", "d1")]


ORDER = OrderWork("o", 1, Place(0, 0), Place(0, 0.05), NOW, ready_at=NOW + 60, promised_until=NOW + 3600)
COURIER = CourierState("d", Vehicle.CAR, Place(0, -0.02))


def forecast(pace: float, wait_s: float = 0.0, delay_s: float = 0.0) -> Forecast:
    there = seconds_between(Vehicle.CAR, distance_m(COURIER.position, ORDER.pickup), pace)
    onward = seconds_between(Vehicle.CAR, distance_m(ORDER.pickup, ORDER.dropoff), pace)
    pickup = there + wait_s
    return Forecast(pickup, pickup + 120 + onward + delay_s, there, wait_s, onward)


def test_forecasts_teach_the_pace_of_a_vehicle() -> None:
    by = corrections({"o": ORDER}, {"d": COURIER}, {("o", "d"): forecast(1.5)}, NOW)
    assert by.pace[Vehicle.CAR] == pytest.approx(1.5)
    assert by.delay_s["o"] == pytest.approx(0, abs=1)


def test_forecasts_teach_when_food_is_ready_and_how_late_deliveries_are() -> None:
    by = corrections({"o": ORDER}, {"d": COURIER}, {("o", "d"): forecast(1.0, 600, 240)}, NOW)
    there = seconds_between(Vehicle.CAR, distance_m(COURIER.position, ORDER.pickup))
    assert by.ready_s["o"] == pytest.approx(there + 600)
    assert by.delay_s["o"] == pytest.approx(240, abs=1)
    order = corrected(ORDER, by, NOW)
    assert order.ready_at == pytest.approx(NOW + there + 600)
    assert order.promised_until == pytest.approx(NOW + 3600 - 240, abs=1)


def test_without_forecasts_nothing_is_corrected() -> None:
    by = corrections({"o": ORDER}, {"d": COURIER}, {}, NOW)
    assert corrected(ORDER, by, NOW) == ORDER
