"""What `waymesh replay` decides before it sends anything."""

from services.cli.replay import new_run_id


def test_replays_that_start_in_the_same_second_share_no_id() -> None:
    assert len({new_run_id() for _ in range(100)}) == 100
