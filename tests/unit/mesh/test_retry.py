"""What is retried, when, and how much an outage is loaded."""

import random

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_DRAINING, ERROR_REASON_MESSAGE_TOO_LARGE

from services.mesh import errors
from services.mesh.retry import RetryBudget, RetryPolicy, asked_wait_s, refused_unread, retryable


def from_peer(error: errors.MeshError) -> errors.MeshError:
    return errors.from_status(errors.to_status(error))


@given(n=st.integers(1, 12), seed=st.integers())
def test_the_nth_wait_is_random_up_to_two_to_the_n_minus_one_and_sixteen_seconds(n: int, seed: int):
    wait_s = RetryPolicy().wait_s(n, random.Random(seed))
    assert 0 <= wait_s <= min(16, 2 ** (n - 1))


def test_waits_use_their_whole_range():
    rng = random.Random(1)
    waits = [RetryPolicy().wait_s(3, rng) for _ in range(1000)]
    assert min(waits) < 0.1
    assert max(waits) > 3.9


def test_there_are_three_retries():
    assert RetryPolicy().retries == 3


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_only_what_may_pass_is_retried(code: grpc.StatusCode):
    assert retryable(errors.error_class(code)("x")) is (code is grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ResourceExhausted("x", retry_after_s=1.0), True),
        (errors.Aborted("x", retry_after_s=0.0), True),
        (errors.Aborted("x"), False),
        (
            errors.ResourceExhausted("x", retry_after_s=1.0, reason=ERROR_REASON_MESSAGE_TOO_LARGE),
            False,
        ),
        (errors.DeadlineExceeded("x", retry_after_s=1.0), False),
        (errors.Internal("x", retry_after_s=1.0), False),
    ],
)
def test_a_limit_is_tried_again_if_the_server_says_when(error: errors.MeshError, expected: bool):
    assert retryable(from_peer(error)) is expected


def test_only_the_servers_own_retry_info_wins():
    ours = errors.Unavailable("x", retry_after_s=5.0)
    assert asked_wait_s(ours) is None
    assert asked_wait_s(from_peer(ours)) == 5.0


def test_only_the_transport_says_that_nobody_has_read_the_call():
    refused = errors.Unavailable("x", reason=ERROR_REASON_DRAINING)
    assert refused_unread(refused)
    assert not refused_unread(from_peer(refused))
    assert not refused_unread(errors.Unavailable("x"))


@pytest.mark.parametrize("calls", [101, 1000, 20_000])
def test_an_outage_is_loaded_less_than_one_and_a_tenth_times(calls: int):
    budget = RetryBudget(RetryPolicy())
    for _ in range(10_000):
        budget.success()
    attempts = 0
    for _ in range(calls):
        attempts += 1
        for _ in range(3):
            if not budget.spend():
                break
            attempts += 1
    assert attempts < 1.1 * calls


@given(st.lists(st.booleans(), min_size=400, max_size=2000), st.randoms(use_true_random=False))
def test_a_partial_outage_is_loaded_less_than_one_and_a_tenth_times_too(
    outcomes: list[bool], rng: random.Random
):
    budget = RetryBudget(RetryPolicy())
    attempts = 0
    for healthy in outcomes:
        attempts += 1
        if healthy:
            budget.success()
        elif budget.spend():
            attempts += 1
    tokens = RetryPolicy().tokens
    assert attempts <= len(outcomes) * (1 + RetryPolicy().ratio) + tokens
