"""Distances, and what eta and route both begin with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waymesh.gps.v1.location_pb2 import Location

from services.eta import priors
from services.eta.learning import Learned
from services.eta.travel import matrix
from services.roads.great_circle import EARTH_RADIUS_M, distances_m, great_circle_m
from services.route import limits
from services.route.travel import Place, distance_m, fallback, plane

points = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(st.lists(points, min_size=1, max_size=6))
def test_a_few_points_and_columns_have_the_same_distances(places: list[tuple[float, float]]) -> None:
    lat, lon = np.array(places).T
    columns = great_circle_m(lat[:, None], lon[:, None], lat, lon)
    assert np.array(distances_m(places)) == pytest.approx(columns, rel=1e-9, abs=1e-3)


@given(points, points)
def test_a_distance_is_the_same_both_ways_and_at_most_half_around(
    a: tuple[float, float], b: tuple[float, float]
) -> None:
    there, back = distance_m(Place(*a), Place(*b)), distance_m(Place(*b), Place(*a))
    assert there == back
    assert 0 <= there <= np.pi * EARTH_RADIUS_M
    assert distance_m(Place(*a), Place(*a)) == 0


@pytest.mark.parametrize(
    ("a", "b", "metres"),
    [
        ((0.0, 0.0), (1.0, 0.0), 111_195.08),
        ((0.0, 0.0), (0.0, 180.0), np.pi * EARTH_RADIUS_M),
        # 5.5 m: where the cosine formula has no digits left.
        ((52.0, 13.0), (52.00005, 13.0), 5.5598),
    ],
)
def test_known_distances(a: tuple[float, float], b: tuple[float, float], metres: float) -> None:
    assert distances_m([a, b])[0][1] == pytest.approx(metres, rel=1e-4)


def test_a_place_that_is_not_known_is_at_no_distance() -> None:
    nan = np.array([np.nan])
    assert np.isnan(great_circle_m(nan, nan, np.array([1.0]), np.array([1.0]))).all()


def test_eta_and_route_begin_with_the_same_speeds_and_detour() -> None:
    assert [limits.SPEED_KPH[vehicle] for vehicle in limits.Vehicle] == priors.SPEED_KPH.tolist()
    assert limits.DETOUR == priors.DETOUR


@pytest.mark.parametrize("vehicle", list(limits.Vehicle))
def test_routes_fallback_is_as_quick_as_eta_before_it_has_learned(vehicle: limits.Vehicle) -> None:
    ends = (52.0, 13.0), (52.05, 13.1)
    here, there = (Location(lat=lat, lon=lon) for lat, lon in ends)
    ways_s, _ = matrix([here], [there], vehicle, Learned())
    # Besides the way on streets, eta counts the last metres around the block.
    block_s = priors.WAY_OFFSET_M / (priors.SPEED_KPH[vehicle or limits.Vehicle.MOTORCYCLE] / 3.6)
    alone = fallback([Place(*end) for end in ends], vehicle).seconds[0][1]
    assert alone == pytest.approx(ways_s[0, 0] - block_s, abs=2)


def test_a_plane_is_the_distances_times_the_detour_rounded_up() -> None:
    places = [Place(52.0, 13.0), Place(52.01, 13.0), Place(52.0, 13.02)]
    travel = plane(places, 36.0, 1.5)
    lines = distances_m([(place.lat, place.lon) for place in places])
    assert np.array(travel.metres) == pytest.approx(np.ceil(np.array(lines) * 1.5))
    assert np.array(travel.seconds) == pytest.approx(np.ceil(np.array(travel.metres) / 10))
