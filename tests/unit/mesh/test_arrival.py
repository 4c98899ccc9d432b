"""Event time against arrival, from what is stored with the event alone."""

from datetime import UTC, datetime, timedelta

import pytest

from services.mesh.arrival import MAX_AHEAD_US, UNKNOWN_US, arrived_us, latest_us

NOW = datetime(2024, 8, 28, 10, 30, 0, 123_456, tzinfo=UTC)


def test_clocks_may_be_ahead_a_little() -> None:
    assert latest_us(arrived_us(NOW)) == arrived_us(NOW + timedelta(minutes=2))
    assert arrived_us(NOW) == 1_724_841_000_123_456


@pytest.mark.parametrize(
    "unset", [datetime(1970, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)]
)
def test_nothing_is_ahead_of_an_arrival_that_nobody_knows(unset: datetime) -> None:
    assert arrived_us(unset) == UNKNOWN_US
    assert latest_us(UNKNOWN_US) == UNKNOWN_US > UNKNOWN_US - MAX_AHEAD_US
