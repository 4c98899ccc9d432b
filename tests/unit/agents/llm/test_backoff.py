"""How long a model is left alone before it is asked again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agents.llm.backoff import CAP_S, retry_after_s, wait_s

NOW = 1_700_000_000.0


@given(tries=st.integers(1, 50), random=st.floats(0, 1))
def test_a_wait_is_anywhere_up_to_twice_the_one_before(tries: int, random: float):
    most = min(CAP_S, 0.5 * 2 ** (tries - 1))
    assert wait_s(tries, None, random) == pytest.approx(most * random)


@given(asked=st.floats(0.001, 1000), random=st.floats(0, 1))
def test_a_server_that_names_a_time_is_never_asked_before_it(asked: float, random: float):
    assert asked <= wait_s(1, asked, random) <= asked * 1.1 + 1e-9


def test_a_named_time_of_nothing_is_a_wait_like_any_other():
    assert wait_s(1, 0.0, 1.0) == wait_s(1, None, 1.0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:25 GMT"}, 5.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0.0),  # it has been
        ({"retry-after": "Tue, 14 Nov 2023 22:13:25 -0000"}, 5.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "x", "retry-after": "1"}, 1.0),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(headers: dict[str, str], seconds: float | None):
    assert retry_after_s(headers, NOW) == seconds
