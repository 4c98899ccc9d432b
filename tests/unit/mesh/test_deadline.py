"""Budgets: they shrink, never outlive the one around them, and are used up before anything is sent."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mesh import deadline
from services.mesh.errors import DeadlineExceeded


def test_without_a_budget_time_is_not_limited():
    assert deadline.remaining() is None
    assert deadline.grant(None) is None


def test_an_inner_budget_never_outlives_the_outer():
    now = 100.0
    with deadline.budget(1.0, lambda: now):
        with deadline.budget(5.0, lambda: now):
            assert deadline.remaining(lambda: now) == pytest.approx(1.0)
        with deadline.budget(0.5, lambda: now):
            assert deadline.remaining(lambda: now) == pytest.approx(0.5)
        with deadline.budget(None, lambda: now):
            assert deadline.remaining(lambda: now) == pytest.approx(1.0)
    assert deadline.remaining(lambda: now) is None


def test_nothing_left_is_an_error_before_the_call():
    now = 100.0
    with deadline.budget(0.3, lambda: now), pytest.raises(DeadlineExceeded):
        deadline.grant(None, clock=lambda: now + 0.295)


@given(
    budget_s=st.none() | st.floats(0.001, 1000),
    own_s=st.none() | st.floats(0.001, 1000),
    used_s=st.floats(0, 10),
)
def test_a_grant_is_at_most_the_callers_own_and_what_is_left_less_the_reserve(
    budget_s: float | None, own_s: float | None, used_s: float
):
    now = 100.0
    with deadline.budget(budget_s, lambda: now):
        try:
            granted = deadline.grant(own_s, clock=lambda: now + used_s)
        except DeadlineExceeded:
            left = min(
                float("inf") if own_s is None else own_s,
                float("inf") if budget_s is None else budget_s - used_s - deadline.RESERVE_S,
            )
            assert left < 0.003
            return
    if granted is None:
        assert budget_s is None
        assert own_s is None
        return
    assert granted > 0
    if own_s is not None:
        assert granted <= own_s
    if budget_s is not None:
        assert granted <= budget_s - used_s - deadline.RESERVE_S + 1e-9


@given(st.floats(0.003, 86_400))
def test_a_grant_has_three_digits_and_loses_little(own_s: float):
    granted = deadline.grant(own_s)
    assert granted is not None
    milliseconds = round(granted * 1000, 6)
    assert milliseconds == int(milliseconds)
    assert len(str(int(milliseconds)).rstrip("0")) <= 3
    assert own_s - granted <= 0.004 + own_s * 0.025


async def test_tasks_have_budgets_of_their_own():
    async def child() -> float | None:
        with deadline.budget(1.0):
            await asyncio.sleep(0)
            return deadline.remaining()

    left, nothing = await asyncio.gather(child(), asyncio.sleep(0, deadline.remaining()))
    assert left is not None
    assert nothing is None
    assert deadline.remaining() is None
