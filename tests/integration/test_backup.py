"""docs/backup.md, followed to the letter: what was acknowledged is there again, and nothing counts twice."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.cli.environment import data_dir
from services.mesh.events import Record
from services.mesh.store import EmbeddedPostgres, binaries, connect
from services.mesh.store.account import unprivileged_account
from tests.contract.events_rig import kafka_rig, message, settled
from tests.faults.up_rig import a_folder
from tests.kafka_brokers import Kafka
from tests.running_mesh import KEY, ROOT, RunningMesh, running_mesh
from tests.tcp_postgres import PASSWORD, TcpPostgres, tcp_postgres

DOCS = (ROOT / "docs/backup.md").read_text()
PLACES = {"pickup": {"lat": -23.5537, "lon": -46.6401}, "dropoff": {"lat": -23.5614, "lon": -46.6559}}


def command(program: str, **places: str) -> list[str]:
    """The documented line of a program, with what stands for its variables and files."""
    line = next(line for line in DOCS.splitlines() if line.startswith(f"{program} "))
    for name, place in places.items():
        assert name in line
        line = line.replace(name, place)
    assert "$" not in line
    words = shlex.split(line)
    return [str(binaries.find().root / "bin" / words[0]), *words[1:]]


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def dump(dsn: str, into: Path) -> None:
    run(command("pg_dump", **{"$DATABASE_URL": dsn, "waymesh.dump": str(into)}))


def restore(server: TcpPostgres, of: Path) -> str:
    """Into a server that has nothing; its address."""
    run(command("createdb", **{"$NEW_SERVER_URL": server.dsn()}))
    dsn = server.dsn("waymesh")
    run(command("pg_restore", **{"$NEW_DATABASE_URL": dsn, "waymesh.dump": str(of)}))
    return dsn


@pytest.fixture
def spare() -> Iterator[TcpPostgres]:
    with tcp_postgres(fsync="off") as server:
        yield server


def told(mesh: RunningMesh, task: str, parameters: dict[str, Any], key: str = KEY) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{mesh.address}/execute",
        json.dumps({"task": task, "parameters": parameters}).encode(),
        {"X-API-Key": key, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)["result"]
            return found
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{task}: {error.read().decode()}") from None


def order(number: int) -> dict[str, Any]:
    placed = {"status": "placed", "placed_at": "2025-06-02T08:00:00Z"}
    return {"orders": [{"order_id": f"order_{number}", "revision": 1, **placed, **PLACES}]}


def outcome(number: int) -> dict[str, Any]:
    return {
        "event_id": f"00000000-0000-4000-8000-{number:012d}",
        "run_id": "run_1",
        "agent_name": "backup",
        "action_type": "test",
        "timestamp": "2025-06-02T08:00:00Z",
        "status": "success",
        "severity": "info",
    }


def fix(number: int) -> dict[str, Any]:
    return {
        "driver_id": "driver_1",
        "order_id": "order_1",
        "location": {"lat": -23.55 - number / 10_000, "lon": -46.63},
        "speed_kph": 25.0,
        "trip_stage": "to_pickup",
        "traffic_density": "light",
        "zone_type": "residential",
        "timestamp": f"2025-06-02T08:{number // 60:02d}:{number % 60:02d}Z",
        "anomaly_flags": [],
    }


class Work:
    """Callers who go on while the dump is taken; `done` is how many rounds were acknowledged."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self.done = 0
        self._thread.start()

    def _go_on(self) -> None:
        while not self._end.is_set():
            number = self.done + 1
            told(self._mesh, "upsert_orders", order(number))
            told(self._mesh, "record_outcome", outcome(number))
            told(self._mesh, "report_gps", fix(number))
            self.done = number

    def rounds(self, count: int) -> int:
        """Waits for so many; how many there are then."""
        ends = time.monotonic() + 60
        while self.done < count:
            assert self._thread.is_alive()
            assert time.monotonic() < ends
            time.sleep(0.01)
        return self.done

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def keys(mesh: RunningMesh, *arguments: str) -> str:
    environ = {"DATABASE_URL": mesh.dsn, "WAYMESH_DATA_DIR": str(mesh.folder), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-P", "-c", "from services.cli import main; main()", "keys", *arguments]
    done = subprocess.run(program, env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def of_up() -> str:
    """The documented lines that dump the database of `waymesh up`."""
    blocks: list[str] = re.findall(r"^```\n(.*?)^```", DOCS, re.M | re.S)
    [found] = [block for block in blocks if "postgres/run" in block]
    return found


@pytest.mark.parametrize("variable", ["", "XDG_STATE_HOME", "WAYMESH_DATA_DIR"])
def test_the_documented_folder_is_that_which_up_chooses(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    environ = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    if variable:
        environ[variable] = str(tmp_path / "chosen")
    lines = of_up().partition("pg_dump ")[0]
    said = subprocess.run(
        ["sh", "-euc", f'{lines}\nprintf %s "$folder"'],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == str(data_dir(environ))


async def test_the_database_of_up_is_dumped_where_no_variable_says_where_it_is(spare: TcpPostgres) -> None:
    # By who is not root, whose own folder a test may not touch.
    account = unprivileged_account()

    def followed(home: Path, server: EmbeddedPostgres) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-euc", of_up()],
            cwd=server.folder,
            env={"HOME": str(home), "PATH": f"{binaries.find().root / 'bin'}:/usr/bin:/bin"},
            user=account and account.uid,
            group=account and account.gid,
            extra_groups=account and [],
            capture_output=True,
            text=True,
            check=False,
        )

    with a_folder() as home:
        home.chmod(0o711)
        server = EmbeddedPostgres(home / ".local/state/waymesh")
        await _execute(await server.start(), "CREATE TABLE kept AS SELECT 1 AS n")
        try:
            done = await asyncio.to_thread(followed, home, server)
        finally:
            await server.stop()
        assert (done.returncode, done.stderr) == (0, "")
        dsn = await asyncio.to_thread(restore, spare, server.folder / "waymesh.dump")
    assert [row["n"] for row in await rows(dsn, "SELECT n FROM kept")] == [1]


async def rows(dsn: str, query: str) -> list[asyncpg.Record]:
    connection = await connect(dsn)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def test_a_dump_of_a_mesh_at_work_brings_back_all_that_was_acknowledged_before_it(
    database: str, spare: TcpPostgres, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()

    def before() -> tuple[str, int]:
        with running_mesh(database, first) as mesh:
            key = keys(mesh, "add", "before")
            told(
                mesh, "create_agent", {"spec": {"name": "night-shift", "instructions": {"system": "Brief."}}}
            )
            work = Work(mesh)
            try:
                acknowledged = work.rounds(30)
                dump(database, tmp_path / "waymesh.dump")
                work.rounds(work.done + 10)
            finally:
                work.end()
            return key, acknowledged

    key, acknowledged = await asyncio.to_thread(before)
    dsn = restore(spare, tmp_path / "waymesh.dump")
    of_fixes = "SELECT count(*) FROM bus.log JOIN bus.partitions USING (part) WHERE topic = 'gps-events'"
    kept = (await rows(dsn, of_fixes))[0]["count"]
    assert kept >= acknowledged

    def after() -> None:
        with running_mesh(dsn, second) as mesh:
            for number in range(1, acknowledged + 1):
                assert told(mesh, "upsert_orders", order(number), key)["results"][0]["duplicate"]
                assert told(mesh, "record_outcome", outcome(number), key)["duplicate"]
                assert told(mesh, "report_gps", fix(number), key)["duplicate"]
            assert told(mesh, "get_agent", {"agent_id": "night-shift"}, key)["agent"]
            # A reader goes on: all that was in the dump is counted once, and so is what comes now.
            assert not told(mesh, "report_gps", fix(2000), key)["duplicate"]
            ends = time.monotonic() + 60
            while told(mesh, "get_gps_stats", {}, key)["fixes"] != kept + 1:
                assert time.monotonic() < ends
                time.sleep(0.05)
            assert mesh.faults() == ""

    await asyncio.to_thread(after)
    twice = """
        SELECT event_id FROM bus.log JOIN bus.partitions USING (part)
        GROUP BY topic, event_id HAVING count(*) > 1"""
    assert await rows(dsn, twice) == []


async def test_readers_on_kafka_do_again_what_a_restored_store_has_forgotten_and_nothing_else(
    database: str, kafka: Kafka, spare: TcpPostgres, tmp_path: Path
) -> None:
    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        await connection.executemany(
            "INSERT INTO public.effects (value) VALUES ($1)", [(record.value.decode(),) for record in records]
        )

    async def published(process: Any, first: int) -> None:
        await process.publish(*(message("k", f"{n}", topic="lone") for n in range(first, first + 10)))
        await process.relayed()
        await settled(reader)

    async with kafka_rig(database, kafka) as rig:
        process = await rig.bus()
        await process.pool.execute("CREATE TABLE public.effects (number serial, value text)")
        reader = process.bus.consume("g", ["lone"], handle)
        process.start(reader)
        await published(process, 0)
        await asyncio.to_thread(dump, database, tmp_path / "waymesh.dump")
        await published(process, 10)
        await process.end()

        rig.dsn = await asyncio.to_thread(restore, spare, tmp_path / "waymesh.dump")
        later = await rig.bus()
        assert await later.pool.fetchval("SELECT count(*) FROM effects") == 10
        reader = later.bus.consume("g", ["lone"], handle)
        later.start(reader)
        await published(later, 20)
        done = await later.pool.fetch("SELECT value FROM effects ORDER BY number")
    assert [int(row["value"]) for row in done] == list(range(30))


def settings_of(text: str) -> dict[str, str]:
    """Lines such as `wal_level = replica`."""
    return dict(re.findall(r"^(\w+) = '?(.*?)'?$", text, re.M))


def test_a_base_backup_and_the_log_go_to_the_moment_that_was_asked_for(tmp_path: Path) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", DOCS, re.M | re.S)
    archiving = settings_of(next(block for block in blocks if "archive_command" in block))
    recovering = settings_of(next(block for block in blocks if "restore_command" in block))
    with tcp_postgres() as other:  # its folder is one that the account of PostgreSQL may write to
        backup = other.folder / "backup"
        for folder in (backup, backup / "wal", backup / "base"):
            _give(folder, other)
        server = other
        server.stop()
        server.settings |= {name: _there(value, backup) for name, value in archiving.items()}
        server.start()
        words = command(
            "pg_basebackup", **{"$SUPERUSER_URL": server.dsn(), "/backup/base": str(backup / "base")}
        )
        server.tool(Path(words[0]).name, *words[1:])
        asyncio.run(_execute(server.dsn(), "CREATE TABLE kept AS SELECT 1 AS n"))
        moment = asyncio.run(rows(server.dsn(), "SELECT now()::text AS at, pg_sleep(0.01)"))[0]["at"]
        asyncio.run(_execute(server.dsn(), "INSERT INTO kept VALUES (2)"))
        asyncio.run(_execute(server.dsn(), "SELECT pg_switch_wal()"))
        server.stop()

        shutil.rmtree(server.folder / "data")
        server.tool_outside("cp", "-a", str(backup / "base"), str(server.folder / "data"))
        server.tool_outside("touch", str(server.folder / "data/recovery.signal"))
        server.settings |= {name: _there(value, backup) for name, value in recovering.items()}
        server.settings["recovery_target_time"] = moment
        server.start()
        asyncio.run(_promoted(server))
        assert [row["n"] for row in asyncio.run(rows(server.dsn(), "SELECT n FROM kept"))] == [1]
        asyncio.run(_execute(server.dsn(), "INSERT INTO kept VALUES (3)"))


def _there(value: str, backup: Path) -> str:
    return value.replace("/backup", str(backup))


def _give(folder: Path, server: TcpPostgres) -> None:
    server.tool_outside("mkdir", "-m", "0700", str(folder))


async def _execute(dsn: str, statement: str) -> None:
    connection = await connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _promoted(server: TcpPostgres) -> None:
    async with asyncio.timeout(60):
        while (await rows(server.dsn(), "SELECT pg_is_in_recovery() AS still"))[0]["still"]:
            await asyncio.sleep(0.02)


def test_the_documented_commands_name_no_option_that_the_tools_do_not_know() -> None:
    assert PASSWORD not in DOCS
    for program in ("pg_dump", "pg_restore", "createdb", "pg_basebackup"):
        line = next(line for line in DOCS.splitlines() if line.startswith(f"{program} "))
        known = subprocess.run(
            [binaries.find().root / "bin" / program, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in re.findall(r"--[a-z-]+", line):
            assert option in known
