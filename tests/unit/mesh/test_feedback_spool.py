"""The spool gives back what it took, in order, whatever end its files have come to."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.mesh.feedback.spool import Spool, frame, frames

records = st.lists(st.binary(max_size=64), max_size=20)


@given(records)
def test_frames_give_back_every_record(some: list[bytes]) -> None:
    assert list(frames(b"".join(map(frame, some)))) == some


@given(records, st.data())
def test_a_torn_end_costs_only_the_torn_record(some: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(frame, some))
    cut = data.draw(st.integers(0, len(whole)))
    found = list(frames(whole[:cut]))
    assert found == some[: len(found)]
    assert sum(len(frame(record)) for record in some[: len(found) + 1]) > cut or len(found) == len(some)


@given(st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=20), st.data())
def test_a_damaged_byte_never_gives_a_record_that_was_not_written(
    some: list[bytes], data: st.DataObject
) -> None:
    whole = bytearray(b"".join(map(frame, some)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    found = list(frames(bytes(whole)))
    assert found == some[: len(found)]
    assert len(found) < len(some)


def test_records_come_back_oldest_first_and_go_once_discarded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=40)
    for number in range(5):
        assert spool.append([f"record {number}".encode()]) == 1
    back: list[bytes] = []
    while (found := spool.oldest()) is not None:
        path, some = found
        back += some
        spool.discard(path)
    assert back == [f"record {number}".encode() for number in range(5)]
    assert spool.size() == 0


def test_a_full_spool_takes_what_has_room_and_says_how_many(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=3 * len(frame(b"0123456789")))
    assert spool.append([b"0123456789"] * 5) == 3
    assert spool.append([b"0123456789"]) == 0
    spool.close()


def test_what_a_killed_process_left_is_read_by_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from services.mesh.feedback.spool import Spool;"
        "Spool(Path(sys.argv[1])).append([b'a', b'b']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    found = Spool(tmp_path).oldest()
    assert found is not None
    assert found[1] == [b"a", b"b"]


def test_a_file_another_process_writes_to_is_left_alone(tmp_path: Path) -> None:
    other = Spool(tmp_path)
    other.append([b"still writing"])
    assert Spool(tmp_path).oldest() is None
    other.close()
    assert Spool(tmp_path).oldest() is not None


def test_writers_readers_and_a_close_at_once_lose_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=200)
    wanted = {f"{writer} {number}".encode() for writer in range(4) for number in range(50)}

    def write(writer: int) -> int:
        return sum(spool.append([f"{writer} {number}".encode()]) for number in range(50))

    def read(_reader: int) -> set[bytes]:
        back: set[bytes] = set()
        for _ in range(50):
            if (found := spool.oldest()) is not None:
                path, some = found
                back.update(some)
                spool.discard(path)
            spool.close()
        return back

    with ThreadPoolExecutor(6) as pool:
        writing, reading = pool.map(write, range(4)), pool.map(read, range(2))
        assert sum(writing) == len(wanted)
        back = set().union(*reading)
    while (found := spool.oldest()) is not None:
        back.update(found[1])
        spool.discard(found[0])
    assert back == wanted
