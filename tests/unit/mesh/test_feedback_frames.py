"""Frames give back every record that is whole, whatever end the file has come to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.mesh.feedback.frames import MARK, OVERHEAD, frame, read

records = st.lists(st.binary(max_size=64), max_size=20)


def written(some: list[bytes]) -> bytes:
    return b"".join(map(frame, some))


@given(records)
def test_every_record_comes_back(some: list[bytes]) -> None:
    found = read(written(some))
    assert (found.records, found.damaged) == (some, 0)


@given(records, st.data())
def test_a_torn_end_costs_only_the_torn_record(some: list[bytes], data: st.DataObject) -> None:
    whole = written(some)
    cut = data.draw(st.integers(0, len(whole)))
    found = read(whole[:cut])
    assert found.records == some[: len(found.records)]
    kept = len(written(found.records))
    assert found.damaged == (kept < cut)
    assert len(found.records) == len(some) or cut < kept + OVERHEAD + len(some[len(found.records)])


@given(records.filter(bool), st.data())
def test_flipped_bits_cost_only_the_records_they_are_in(some: list[bytes], data: st.DataObject) -> None:
    broken = bytearray(written(some))
    flips = data.draw(st.sets(st.integers(0, len(broken) * 8 - 1), min_size=1, max_size=5))
    for flip in flips:
        broken[flip // 8] ^= 1 << flip % 8
    at, untouched = 0, []
    for record in some:
        size = OVERHEAD + len(record)
        if not any(at <= flip // 8 < at + size for flip in flips):
            untouched.append(record)
        at += size
    found = read(bytes(broken))
    assert found.records == untouched
    assert 1 <= found.damaged <= len(flips)


@given(records, st.binary(max_size=200), records)
def test_what_lies_between_is_passed_over(before: list[bytes], junk: bytes, after: list[bytes]) -> None:
    # A mark at the end of the junk would claim bytes of what follows, and be found out by the check.
    found = read(written(before) + junk + MARK[:3] + written(after))
    assert found.records == before + after
    assert found.damaged == 1


@given(st.binary(max_size=300))
def test_anything_can_be_read(data: bytes) -> None:
    read(data)


def test_a_hole_of_zeros_as_a_power_cut_leaves_it_is_passed_over() -> None:
    found = read(frame(b"a") + bytes(4096) + frame(b"b"))
    assert (found.records, found.damaged) == ([b"a", b"b"], 1)
