"""What a mesh leaves for other commands, and what the next one finds of one that died."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli import state
from services.cli.errors import CliError
from services.cli.state import MeshState, ProcessId, RunLock, ServiceState


def a_state(folder: Path, processes: list[ProcessId] | None = None) -> MeshState:
    eta = ServiceState("eta", "ready", 12, "127.0.0.1", 50051, 9101)
    return MeshState(1, str(folder), "postgresql://x", 7, {"eta": eta}, processes or [])


def test_what_is_saved_is_loaded_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    state.save(tmp_path, a_state(tmp_path, [ProcessId.of(os.getpid())]))
    assert state.load(tmp_path) == a_state(tmp_path, [ProcessId.of(os.getpid())])
    assert (tmp_path / state.STATE_FILE).stat().st_mode & 0o777 == 0o600
    assert a_state(tmp_path).target("eta") == "127.0.0.1:50051"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1, "services": []}'])
def test_a_file_that_cannot_be_read_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / state.STATE_FILE).write_text(text)
    assert state.load(tmp_path) is None
    assert state.end_leftovers(tmp_path) == []


def test_a_folder_has_one_mesh_at_a_time(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    assert not state.is_running(tmp_path)
    first.acquire()
    assert state.is_running(tmp_path)
    with pytest.raises(CliError, match=rf"already runs on .*pid {os.getpid()}"):
        second.acquire()
    first.release()
    assert not state.is_running(tmp_path)
    second.acquire()
    second.release()


def test_a_file_without_a_living_mesh_counts_for_nothing(tmp_path: Path) -> None:
    state.save(tmp_path, a_state(tmp_path))
    with pytest.raises(CliError, match="no mesh runs"):
        state.running(tmp_path)


def test_leftovers_are_ended_and_strangers_with_their_number_are_not(tmp_path: Path) -> None:
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as left,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger,
    ):
        known = ProcessId.of(left.pid)
        before = ProcessId(stranger.pid, ProcessId.of(stranger.pid).started - 1)
        state.save(tmp_path, a_state(tmp_path, [known, before]))
        assert state.end_leftovers(tmp_path) == [left.pid]
        assert not known.alive
        assert stranger.poll() is None
        stranger.kill()


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = ProcessId.of(process.pid)
        assert identity.alive
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, nobody has taken its code
        assert not identity.alive
