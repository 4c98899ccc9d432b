"""What is kept of answers, for whom and how long."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from services.agents.llm.cache import Cache, Kept, key_of


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(text: str) -> Kept:
    return Kept(text, (), "stop")


def test_an_answer_is_found_until_its_time_is_over():
    clock = Clock()
    cache = Cache(10, 1 << 20, 60.0, clock)
    cache.put(b"k", kept("a"))
    clock.now = 59.9
    assert cache.get(b"k") == kept("a")
    clock.now = 60.0
    assert cache.get(b"k") is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_least_recently_used_goes_first():
    cache = Cache(2, 1 << 20, 60.0, Clock())
    cache.put(b"1", kept("a"))
    cache.put(b"2", kept("b"))
    cache.get(b"1")
    cache.put(b"3", kept("c"))
    assert [cache.get(key) is not None for key in (b"1", b"2", b"3")] == [True, False, True]


def test_what_is_too_large_to_stand_beside_others_is_not_kept():
    cache = Cache(10, 2000, 60.0, Clock())
    cache.put(b"1", kept("a"))
    cache.put(b"2", kept("x" * 3000))
    assert cache.get(b"1") is not None
    assert cache.get(b"2") is None


def test_a_cache_without_entries_keeps_nothing():
    cache = Cache(0, 1 << 20, 60.0, Clock())
    cache.put(b"1", kept("a"))
    assert cache.get(b"1") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=60))
def test_neither_bound_is_ever_passed_and_the_bytes_are_those_of_what_is_there(puts: list[tuple[int, int]]):
    cache = Cache(4, 4000, 60.0, Clock())
    for key, size in puts:
        cache.put(bytes([key]), kept("x" * size))
        there = [found for each in range(10) if (found := cache.get(bytes([each]))) is not None]
        assert len(there) == len(cache) <= 4
        assert sum(each.size_bytes for each in there) == cache.bytes <= 4000


def test_parts_of_a_key_do_not_run_into_each_other():
    keys = [
        key_of("http://a", "t/1", b"{}"),
        key_of("http://a", "t/1{", b"}"),
        key_of("http://", "at/1", b"{}"),
        key_of("http://a", "t/2", b"{}"),
        key_of("http://b", "t/1", b"{}"),
        key_of("http://a", "t/1", b"{ }"),
    ]
    assert all(one != other for one, other in combinations(keys, 2))
