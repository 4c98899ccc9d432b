"""The spool gives back what it took, in order, once, whatever end its files have come to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorder_rig import drained

from services.mesh.feedback.frames import OVERHEAD, frame, read
from services.mesh.feedback.spool import Spool
from tests.examples import examples


def numbered(count: int) -> list[bytes]:
    return [f"record {number}".encode() for number in range(count)]


def test_records_come_back_oldest_first_and_go_once_discarded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=40)
    for record in numbered(5):
        assert spool.append([record]) == 1
    assert drained(spool) == numbered(5)
    assert (spool.size(), list(tmp_path.iterdir())) == (0, [])


def test_what_is_not_discarded_comes_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(numbered(2))
    found = spool.oldest()
    assert found is not None
    found.release()
    assert drained(spool) == numbered(2)


def test_a_large_batch_is_cut_into_files_that_can_be_read_back_one_by_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=100)
    some = [bytes([number]) * 30 for number in range(50)]
    assert spool.append(some) == 50
    assert len(list(tmp_path.iterdir())) == 17
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 100 + 30 + OVERHEAD
    assert drained(spool) == some


def test_order_holds_when_the_clock_jumps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, now in enumerate((2e9, 1e9, 0.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        monkeypatch.setattr(time, "time_ns", lambda now=now: int(now * 1e9))
        spool = Spool(tmp_path)
        spool.append([f"{number}".encode()])
        spool.close()
    assert drained(Spool(tmp_path)) == [b"0", b"1", b"2"]


def test_order_holds_over_processes_that_follow_each_other(tmp_path: Path) -> None:
    for record in numbered(12):
        spool = Spool(tmp_path)
        spool.append([record])
        spool.close()
    assert drained(Spool(tmp_path)) == numbered(12)


def test_a_full_spool_keeps_the_oldest_and_says_how_many_it_took(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=3 * len(frame(b"0123456789")))
    some = [f"{number:010d}".encode() for number in range(5)]
    assert spool.append(some) == 3
    assert spool.append([b"0123456789"]) == 0
    assert drained(spool) == some[:3]
    assert spool.append([b"0123456789"]) == 1
    spool.close()


def test_the_bound_is_for_all_processes_together(tmp_path: Path) -> None:
    bound = 2 * len(frame(b"0123456789"))
    first, second = Spool(tmp_path, max_bytes=bound), Spool(tmp_path, max_bytes=bound)
    assert first.append([b"0123456789"]) == 1
    assert second.append([b"0123456789"] * 2) == 1


def test_what_a_killed_process_left_is_read_by_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from services.mesh.feedback.spool import Spool;"
        "Spool(Path(sys.argv[1])).append([b'a', b'b']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert drained(Spool(tmp_path)) == [b"a", b"b"]


def test_a_file_another_process_writes_to_is_left_alone(tmp_path: Path) -> None:
    other = Spool(tmp_path)
    other.append([b"still writing"])
    assert Spool(tmp_path).oldest() is None
    other.close()
    assert Spool(tmp_path).oldest() is not None


def test_a_file_that_one_process_delivers_is_not_delivered_by_another(tmp_path: Path) -> None:
    dead = Spool(tmp_path, file_bytes=1)
    dead.append([b"a", b"b"])
    first, second = Spool(tmp_path), Spool(tmp_path)
    one, other = first.oldest(), second.oldest()
    assert one is not None
    assert other is not None
    assert (one.records, other.records) == ([b"a"], [b"b"])
    assert first.oldest() is None
    one.discard()
    other.discard()
    assert drained(first) == []


def test_a_new_file_that_a_reader_forgets_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    raced: list[Path] = []

    def racing(path: Path, flags: int, mode: int = 0o777) -> int:
        file = opened(path, flags, mode)
        if flags & os.O_EXCL and not raced:
            raced.append(path)
            Path(path).unlink()
        return file

    monkeypatch.setattr(os, "open", racing)
    spool = Spool(tmp_path)
    assert spool.append([b"a"]) == 1
    assert raced
    assert drained(spool) == [b"a"]


def test_a_folder_cleared_under_the_writer_is_made_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.append([b"gone"])
    for path in (tmp_path / "spool").iterdir():
        path.unlink()
    (tmp_path / "spool").rmdir()
    assert spool.append([b"kept"]) == 1
    assert drained(spool) == [b"kept"]


def test_strange_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.spool").write_bytes(b"mine")
    (tmp_path / ".hidden").touch()
    spool = Spool(tmp_path)
    spool.append([b"a"])
    assert drained(spool) == [b"a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "notes.spool"]


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    Spool(tmp_path).append([b"a"])
    [path] = tmp_path.iterdir()
    assert path.stat().st_mode & 0o077 == 0


def test_a_damaged_file_gives_what_can_be_read_and_is_set_aside_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(numbered(3))
    spool.close()
    [path] = tmp_path.iterdir()
    broken = bytearray(path.read_bytes())
    broken[len(frame(b"record 0")) + OVERHEAD + 2] ^= 1
    path.write_bytes(broken)
    found = spool.oldest()
    assert found is not None
    assert (found.records, found.damaged) == ([b"record 0", b"record 2"], 1)
    found.discard()
    assert spool.oldest() is None
    [aside] = tmp_path.iterdir()
    assert (aside.suffix, aside.read_bytes()) == (".damaged", bytes(broken))
    assert spool.size() == 0


def test_what_was_refused_is_kept_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(numbered(3))
    found = spool.oldest()
    assert found is not None
    found.discard([b"record 1"])
    [aside] = tmp_path.iterdir()
    assert (aside.suffix, read(aside.read_bytes()).records) == (".refused", [b"record 1"])
    assert spool.oldest() is None


def test_of_what_was_set_aside_the_newest_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=8 * 150, file_bytes=1)
    for number in range(10):
        spool.append([bytes([number]) * 38])
        found = spool.oldest()
        assert found is not None
        found.discard(found.records)
    spool.append([b"next"])
    kept = [read(path.read_bytes()).records[0][0] for path in sorted(tmp_path.glob("*.refused"))]
    assert kept == [7, 8, 9]
    spool.close()


def test_writers_readers_and_a_close_at_once_lose_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=200)
    wanted = {f"{writer} {number}".encode() for writer in range(4) for number in range(50)}

    def write(writer: int) -> int:
        return sum(spool.append([f"{writer} {number}".encode()]) for number in range(50))

    def take(_reader: int) -> list[bytes]:
        back: list[bytes] = []
        for _ in range(50):
            if (found := spool.oldest()) is not None:
                back += found.records
                found.discard()
            spool.close()
        return back

    with ThreadPoolExecutor(6) as pool:
        writing, reading = pool.map(write, range(4)), pool.map(take, range(2))
        assert sum(writing) == len(wanted)
        back = [record for some in reading for record in some]
    back += drained(spool)
    assert len(back) == len(wanted)
    assert set(back) == wanted


appends = st.lists(st.lists(st.binary(max_size=40), max_size=5), max_size=8)


@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(appends, st.data())
def test_a_crash_at_any_byte_loses_nothing_that_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], data: st.DataObject
) -> None:
    """The crash comes within the last append: any prefix of its bytes is on disk, or the whole."""
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, file_bytes=120)
    acknowledged: list[bytes] = []
    for batch in batches:
        assert spool.append(batch) == len(batch)
        acknowledged += batch
    spool.close()
    torn = data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=3))
    last = b"".join(map(frame, torn))
    cut = data.draw(st.integers(0, len(last)))
    (folder / f"{10**6:020d}-ab.spool").write_bytes(last[:cut])
    back = drained(Spool(folder))
    assert back[: len(acknowledged)] == acknowledged
    rest = back[len(acknowledged) :]
    assert rest == torn[: len(rest)]


def test_a_spool_tells_how_long_its_oldest_records_wait_however_often_more_come(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(numbered(1))
    (path,) = tmp_path.iterdir()
    os.utime(path, (time.time() - 300,) * 2)
    size, age_s = spool.standing()
    spool.append(numbered(1))  # the file is now as young as this record
    more, still_s = spool.standing()
    assert size < more
    assert 300 <= age_s <= still_s


def test_an_empty_spool_waits_for_nothing(tmp_path: Path) -> None:
    assert Spool(tmp_path / "none").standing() == (0, 0.0)
