"""Who a fix is, and whether it came before."""

import uuid

import numpy as np
import pytest
from eta_fleet import fix, rng

from services.eta.identity import event_id_of, hash_contents, hash_ids, identify
from services.eta.seen import SeenFixes, repeats


def test_a_fix_without_id_gets_the_uuid5_of_what_it_says() -> None:
    event = fix(0.25)
    namespace = uuid.uuid5(uuid.NAMESPACE_DNS, "gps.waymesh")
    name = "driver_1|order_1|to_destination|1724841000250000|-23.5500000|-46.6300000"
    assert event_id_of(event) == str(uuid.uuid5(namespace, name))


def test_a_given_id_stays() -> None:
    assert identify([fix(event_id="mine"), fix()])[0] == "mine"


def test_minus_zero_is_the_same_place_as_zero() -> None:
    east, west = fix(), fix()
    east.location.lon, west.location.lon = 0.0, -0.0
    assert event_id_of(east) == event_id_of(west)


def test_the_derived_id_is_part_of_the_content() -> None:
    bare, named = fix(), fix()
    named.event_id = event_id_of(named)
    identify([bare])
    assert hash_contents([bare]) == hash_contents([named])


@pytest.mark.parametrize("change", [{"speed_kph": 21}, {"order_id": "order_2"}, {"heading_degrees": 0.0}])
def test_any_other_value_is_other_content(change: dict[str, object]) -> None:
    assert hash_contents([fix(event_id="a")]) != hash_contents([fix(event_id="a", **change)])


def _batch(*pairs: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
    return hash_ids([name for name, _ in pairs]), np.array([content for _, content in pairs], dtype=np.uint64)


def test_repeats_within_a_batch_and_across_batches_are_told_from_conflicts() -> None:
    seen = SeenFixes()
    ids, contents = _batch(("a", 1), ("b", 2), ("a", 1), ("b", 3))
    duplicate, conflict = repeats(seen, ids, contents)
    assert duplicate.tolist() == [False, False, True, False]
    assert conflict.tolist() == [False, False, False, True]
    new = ~duplicate & ~conflict
    seen.add(ids[new], contents[new])
    ids, contents = _batch(("b", 2), ("a", 9), ("c", 1), ("c", 1))
    duplicate, conflict = repeats(seen, ids, contents)
    assert duplicate.tolist() == [True, False, False, True]
    assert conflict.tolist() == [False, True, False, False]


def test_what_was_seen_agrees_with_a_dictionary_over_many_batches() -> None:
    random, seen = rng(7), SeenFixes()
    known: dict[int, int] = {}
    for _ in range(60):
        ids = random.integers(0, 3000, size=random.integers(1, 120)).astype(np.uint64)
        contents = random.integers(0, 3, size=len(ids)).astype(np.uint64)
        duplicate, conflict = repeats(seen, ids, contents)
        expected = []
        for one, content in zip(ids.tolist(), contents.tolist(), strict=True):
            expected.append("new" if one not in known else "same" if known[one] == content else "other")
            known.setdefault(one, content)
        found = np.where(duplicate, "same", np.where(conflict, "other", "new"))
        assert found.tolist() == expected
        new = ~duplicate & ~conflict
        seen.add(ids[new], contents[new])
        assert len(seen) == len(known)


def test_the_newest_are_remembered_and_memory_is_bounded() -> None:
    seen = SeenFixes(limit=100)
    for start in range(0, 1000, 10):
        ids = np.arange(start, start + 10, dtype=np.uint64)
        seen.add(ids, ids)
    assert len(seen) <= 200
    found, _ = seen.find(np.arange(900, 1000, dtype=np.uint64))
    assert found.all()
