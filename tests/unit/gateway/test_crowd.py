"""How many connections there may be, and who goes to make room."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.crowd import Crowd


class Somebody:
    """A connection that notes how it ended."""

    def __init__(self) -> None:
        self.ended = ""

    def close(self) -> None:
        self.ended = "closed"

    def hang_up(self) -> None:
        self.ended = "hung up"


def test_who_has_been_quiet_for_longest_makes_room() -> None:
    crowd = Crowd(2)
    first, second, third = Somebody(), Somebody(), Somebody()
    assert crowd.join(first)
    assert crowd.join(second)
    crowd.speaks(first)
    crowd.quiet(first)  # it has had its answer, after the second one came
    assert crowd.join(third)
    assert (first.ended, second.ended) == ("", "closed")


def test_who_comes_when_all_are_busy_is_turned_away() -> None:
    crowd = Crowd(1)
    busy = Somebody()
    assert crowd.join(busy)
    crowd.speaks(busy)
    assert not crowd.join(Somebody())
    crowd.leave(busy)
    assert crowd.join(Somebody())


def test_of_those_who_do_not_read_the_first_goes() -> None:
    crowd = Crowd(10, max_unread=2)
    each = [Somebody() for _ in range(4)]
    for somebody in each:
        crowd.join(somebody)
    crowd.unread(each[0])
    crowd.unread(each[1])
    crowd.reads(each[0])
    crowd.unread(each[2])
    crowd.unread(each[3])
    assert [somebody.ended for somebody in each] == ["", "hung up", "", ""]


@given(st.lists(st.tuples(st.sampled_from(["join", "speaks", "quiet", "end"]), st.integers(0, 9))))
def test_there_are_never_more_than_may_be(steps: list[tuple[str, int]]) -> None:
    crowd = Crowd(3)
    inside: list[Somebody] = []
    for step, number in steps:
        if step == "join":
            fresh = Somebody()
            if crowd.join(fresh):
                inside.append(fresh)
        elif inside:
            somebody = inside[number % len(inside)]
            if step == "end":
                crowd.leave(somebody)
                inside.remove(somebody)
            else:
                getattr(crowd, step)(somebody)
        for gone in [somebody for somebody in inside if somebody.ended]:
            crowd.leave(gone)
            inside.remove(gone)
        assert crowd.size == len(inside) <= 3
