"""How much of a tick a tenant gets, and who rests."""

from services.route.pace import OVERHEAD_S, Pace, choose


def test_a_tenant_rests_as_long_as_its_orders_took_and_nobody_else_does() -> None:
    pace = Pace()
    pace.took("busy", 400, began=100.0, ended=130.0)
    assert pace.rested(["busy", "other"], 131.0) == ["other"]
    assert pace.passed_over_until == 160.0
    assert pace.rested(["busy", "other"], 160.0) == ["busy", "other"]
    assert pace.passed_over_until is None


def test_slow_orders_are_fewer_at_a_time_and_quick_ones_more_again() -> None:
    pace = Pace()
    at_first = pace.fits(5.0)
    for _ in range(5):
        pace.took("a", 10, began=0.0, ended=10.0 + OVERHEAD_S)
    assert 4 <= pace.fits(5.0) <= 10
    for _ in range(20):
        pace.took("a", 1, began=0.0, ended=0.02)
    assert pace.fits(5.0) > at_first


def test_one_order_is_always_looked_at() -> None:
    pace = Pace()
    for _ in range(9):
        pace.took("a", 1, began=0.0, ended=1000.0)
    assert pace.fits(0.0) == 1


def test_the_most_urgent_are_chosen_and_each_other_has_its_turn() -> None:
    found = list(range(20))
    seen: set[int] = set()
    for _ in range(500):
        chosen, others = choose(found, 6)
        assert chosen[:3] == [0, 1, 2]
        assert chosen == sorted(chosen)
        assert sorted(chosen + others) == found
        seen |= set(chosen)
    assert seen == set(found)


def test_all_are_chosen_where_they_fit() -> None:
    assert choose([3, 1, 2], 3) == ([3, 1, 2], [])
