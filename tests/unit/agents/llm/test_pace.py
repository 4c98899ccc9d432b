"""How the time there is falls to models."""

import pytest

from services.agents.llm.pace import LONGEST_S, Pace
from services.mesh import deadline


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("left_s", "timeout_s", "after", "share_s"),
    [
        (60, 30, 0, 60),  # the last may use all that is left
        (60, 30, 1, 30),  # one call's time is kept back for the other
        (10, 30, 1, 5),  # but no more than its half
        (10, 2, 1, 8),  # a short call leaves more for the first one's tries
        (12, 30, 2, 4),  # a third each
        (12, 1, 2, 10),
    ],
)
def test_a_model_leaves_those_after_it_one_call_or_an_equal_share(left_s, timeout_s, after, share_s):
    clock = Clock()
    with deadline.budget(left_s, clock):
        assert Pace(0.0, clock).share_s(timeout_s, after) == pytest.approx(share_s)


def test_what_a_model_did_not_use_falls_to_those_after_it():
    clock = Clock()
    with deadline.budget(10, clock):
        pace = Pace(0.0, clock)
        clock.now += 1
        assert pace.share_s(30, 0) == pytest.approx(9)


def test_the_reserve_of_the_caller_is_not_touched():
    clock = Clock()
    with deadline.budget(10, clock):
        assert Pace(2.0, clock).left_s() == pytest.approx(8)


def test_all_of_it_ends_within_a_minute_without_a_deadline_and_with_a_longer_one():
    clock = Clock()
    assert Pace(0.5, clock).left_s() == LONGEST_S
    with deadline.budget(600, clock):
        assert Pace(0.5, clock).left_s() == LONGEST_S


def test_nothing_is_left_once_the_deadline_is_nearer_than_the_reserve():
    clock = Clock()
    with deadline.budget(0.3, clock):
        assert Pace(0.5, clock).left_s() < 0
