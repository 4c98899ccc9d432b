"""The embedded PostgreSQL: ours alone, unprivileged, durable, and back after whatever killed it."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.mesh.store import EmbeddedPostgres, EmbeddedPostgresError, connect, running_dsn
from services.mesh.store import binaries as wheel
from services.mesh.store.embedded import _socket_folder
from tests.processes import until

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, who must hand PostgreSQL to another account"
)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder outside pytest's own, which let only their owner pass."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-pg-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_folder(data_dir: Path) -> Path:
    """A folder that everybody may pass."""
    data_dir.chmod(0o755)
    return data_dir


@pytest.fixture
async def server(data_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    embedded = EmbeddedPostgres(data_dir)
    yield embedded
    await embedded.stop()


async def scalar(dsn: str, sql: str) -> object:
    connection = await connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_starts_durable_and_without_a_tcp_listener(server: EmbeddedPostgres) -> None:
    dsn = await server.start()
    assert await scalar(dsn, "SHOW fsync") == "on"
    assert await scalar(dsn, "SHOW synchronous_commit") == "on"
    assert await scalar(dsn, "SHOW listen_addresses") == ""
    assert await scalar(dsn, "SELECT current_database()") == "waymesh"


@as_root
async def test_runs_as_an_unprivileged_account_in_a_folder_closed_to_others(server: EmbeddedPostgres) -> None:
    await server.start()
    assert server.pid is not None
    assert os.stat(f"/proc/{server.pid}").st_uid != 0
    assert server.folder.stat().st_mode & 0o077 == 0


async def test_keeps_its_data_over_a_stop_and_a_start(server: EmbeddedPostgres) -> None:
    dsn = await server.start()
    await scalar(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
    await server.stop()
    assert server.pid is None
    assert await scalar(await server.start(), "SELECT n FROM kept") == 7


async def test_owner_notices_a_kill_and_starts_it_again_with_everything_committed(
    server: EmbeddedPostgres,
) -> None:
    dsn = await server.start()
    await scalar(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL
    assert server.pid is None
    assert await scalar(await server.start(), "SELECT n FROM kept") == 7


async def test_a_pid_file_that_names_a_stranger_does_not_keep_it_from_starting(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    await server.start()
    pid_file = data_dir / "postgres" / "cluster" / "postmaster.pid"
    left = pid_file.read_text()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()
    stranger = await asyncio.create_subprocess_exec("sleep", "60", user=pid_file.parent.stat().st_uid)
    try:
        pid_file.write_text(left.replace(left.split("\n")[0], str(stranger.pid), 1))
        assert await scalar(await server.start(), "SELECT 1") == 1
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_second_owner_is_told_that_the_folder_is_taken(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    dsn = await server.start()
    with pytest.raises(EmbeddedPostgresError, match="another running process owns"):
        await EmbeddedPostgres(data_dir).start()
    assert await scalar(dsn, "SELECT 1") == 1


async def test_starting_twice_is_starting_once(server: EmbeddedPostgres) -> None:
    first = await server.start()
    pid = server.pid
    assert (await server.start(), server.pid) == (first, pid)


async def test_others_find_a_running_server_by_the_data_folder(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    assert running_dsn(data_dir) is None
    dsn = await server.start()
    assert running_dsn(data_dir) == dsn
    await server.stop()
    assert running_dsn(data_dir) is None


async def test_a_path_too_long_for_a_socket_gets_a_short_folder_elsewhere(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / ("long" * 30))
    try:
        assert await scalar(await server.start(), "SELECT 1") == 1
    finally:
        await server.stop()
        shutil.rmtree(_socket_folder(server.folder), ignore_errors=True)


async def test_half_a_cluster_left_by_a_crash_is_made_anew(server: EmbeddedPostgres) -> None:
    unfinished = server.folder / "cluster.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    assert await scalar(await server.start(), "SELECT 1") == 1


async def test_a_cluster_of_another_version_is_refused_with_what_to_do(server: EmbeddedPostgres) -> None:
    cluster = server.folder / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 9"):
        await server.start()


@as_root
async def test_a_folder_behind_a_closed_one_is_refused_and_nothing_is_opened(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=f"may not pass {closed}"):
        await EmbeddedPostgres(closed / "data").start()
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
async def test_programs_out_of_reach_are_copied_into_the_data_folder(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "reachable", lambda binaries, account: False)
    assert await scalar(await server.start(), "SELECT 1") == 1
    assert os.readlink(f"/proc/{server.pid}/exe").startswith(str(server.folder / "install"))


OWNER = """
import asyncio, sys
from pathlib import Path
from services.mesh.store import EmbeddedPostgres
async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await server.wait()
asyncio.run(main())
"""


async def test_a_killed_owner_leaves_no_server_and_the_next_owner_finds_everything(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(data_dir), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    pid = int(await owner.stdout.readline())
    await scalar(server.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
    owner.kill()
    await owner.wait()
    await until(lambda: not Path(f"/proc/{pid}").exists(), "the orphan has ended")
    assert await scalar(await server.start(), "SELECT n FROM kept") == 7
