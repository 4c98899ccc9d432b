"""A token bucket with a clock that stands still until it is told to go."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.limits import Rate, TokenBucket, retry_after


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_at_once_and_then_as_many_as_come_back() -> None:
    clock = Clock()
    bucket = TokenBucket(Rate(200, 400), clock)
    assert [bucket.take() for _ in range(400)] == [0.0] * 400
    assert bucket.take() == 1 / 200
    clock.now += 0.005
    assert bucket.take() == 0.0
    assert bucket.take() > 0


def test_what_is_not_used_is_kept_up_to_the_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(Rate(10, 3), clock)
    clock.now += 3600
    assert [bucket.take() > 0 for _ in range(4)] == [False, False, False, True]


@given(
    per_s=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    waits=st.lists(st.floats(0, 2), min_size=1, max_size=100),
)
def test_never_more_than_burst_and_rate_allow_and_the_wait_that_is_told_is_enough(
    per_s: float, burst: int, waits: list[float]
) -> None:
    clock = Clock()
    bucket = TokenBucket(Rate(per_s, burst), clock)
    passed = 0
    for wait_s in waits:
        clock.now += wait_s
        told_s = bucket.take()
        if told_s == 0:
            passed += 1
        else:
            clock.now += told_s + 1e-9
            assert bucket.take() == 0
            passed += 1
        assert passed <= burst + clock.now * per_s + 1e-6


def test_retry_after_is_whole_seconds_and_never_too_early() -> None:
    assert [retry_after(seconds) for seconds in (0, 0.005, 1, 1.2, 60)] == ["1", "1", "1", "2", "60"]
