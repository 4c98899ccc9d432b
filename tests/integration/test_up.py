"""`waymesh up` from ready to Ctrl-C, and the commands that talk to it."""

import asyncio
import re
import signal
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.cli.probe import health
from tests.faults.up_rig import WAYMESH, Up, a_folder, gone, up
from tests.integration.gateway_rig import GPS, Client

pytestmark = pytest.mark.faults
# Of tests that leave the mesh as it was.
on_one_mesh = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Up]:
    async with up() as running:
        yield running


async def test_up_serves_answers_its_own_curl_line_and_stops_in_order_with_nothing_left() -> None:
    async with up() as mesh:
        line = await mesh.until_line("^  curl ")
        answer = await mesh.curl(line)
        assert (answer["status"], answer["attempt"]) == ("success", 1)
        processes = mesh.processes()
        assert len(processes) > 8
        mesh.send(signal.SIGINT)
        assert await mesh.wait() == 0
        await gone(processes)
        stopped = [line.split()[1] for line in mesh.lines if " stopped" in line]
        assert stopped == ["gateway", "agents", "route", "eta", "feedback", "postgres"]
        assert not any("killed" in line or "Traceback" in line for line in mesh.lines)
        assert not (mesh.folder / "up.json").exists()
        for name in ("gateway", "agents", "route", "eta", "feedback"):
            assert f'"{name} has stopped"' in (mesh.folder / "logs" / f"{name}.log").read_text()


@on_one_mesh
async def test_ready_is_said_once_the_gateway_has_found_every_service(mesh: Up) -> None:
    seen = (await health("127.0.0.1", mesh.gateway_port)).checks
    assert seen == {"keys": "ok", "agents": "ok", "eta": "ok", "feedback": "ok", "route": "ok"}


async def test_a_second_signal_ends_everything_at_once_without_another_word() -> None:
    async with up("--demo") as mesh:
        processes = mesh.processes()
        mesh.send(signal.SIGINT)
        await mesh.until_line("stopping")
        told = len(mesh.lines)
        mesh.send(signal.SIGINT)
        assert await mesh.wait() == 0
        await gone(processes)
        assert [line for line in mesh.lines[told:] if not re.search(r"  (stopped|\d+ +\d+ )", line)] == []


async def test_a_second_start_keeps_the_key_and_the_data() -> None:
    with a_folder() as folder:
        async with up(folder=folder) as mesh:
            key = mesh.key
            client = Client(mesh.gateway_port)
            first = await client.task("report_gps", GPS, key=key)
            assert first.json["result"]["duplicate"] is False
            await client.close()
        async with up(folder=folder) as mesh:
            client = Client(mesh.gateway_port)
            again = await client.task("report_gps", GPS, key=key)
            assert again.json["result"] == {**first.json["result"], "duplicate": True}
            await client.close()


async def test_the_given_key_is_the_key() -> None:
    async with up(FASTAPI_API_KEY="wm_given") as mesh:
        client = Client(mesh.gateway_port)
        assert (await client.task("get_gps_stats", {}, key="wm_given")).status == 200
        assert (await client.task("get_gps_stats", {}, key="wm_other")).status == 401
        assert not (mesh.folder / "api_key").exists()
        await client.close()


@on_one_mesh
async def test_a_second_up_on_the_folder_and_one_on_the_ports_are_told_what_to_change(mesh: Up) -> None:
    code, _, err = await mesh.run("up")
    assert code == 1
    assert err.startswith("waymesh: a mesh already runs on ")
    assert f"pid {mesh.pid}" in err
    with a_folder() as other:
        code, out, err = await mesh.run("up", WAYMESH_DATA_DIR=str(other / "new"))
        assert code == 1
        assert "is in use by python" in err
        assert "set WAYMESH_FEEDBACK_PORT to another port" in err
        assert out == ""
        assert list(other.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "shown", "allowed"),
    [
        ("LOG_LEVEL", "LOUD", "LOUD", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("WAYMESH_ETA_GPS_BATCH", "many", "many", "an integer from 1 to 10000"),
        ("WAYMESH_RATE_PER_S", "nan", "nan", "a number above 0 to 1000000"),
        ("FASTAPI_API_KEY", "wm secret", "[redacted]", "1 to 256 visible characters of ASCII"),
    ],
)
async def test_a_wrong_setting_of_any_service_is_told_before_anything_starts(
    variable: str, value: str, shown: str, allowed: str
) -> None:
    with a_folder() as folder:
        async with up(ready=False, folder=folder / "new", **{variable: value}) as mesh:
            assert await mesh.wait() == 1
        assert mesh.lines == [f"waymesh: {variable} holds '{shown}': allowed is {allowed}"]
        assert list(folder.iterdir()) == []


async def test_a_database_that_cannot_be_reached_stops_the_start_with_a_line() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        url = f"postgresql://someone:secretword@127.0.0.1:{port}/nothing"
        with a_folder() as folder:
            async with up(ready=False, folder=folder / "new", DATABASE_URL=url) as mesh:
                assert await mesh.wait() == 1
            assert list(folder.iterdir()) == []
        shown = f"postgresql://someone:[redacted]@127.0.0.1:{port}/nothing"
        waiting, last = mesh.lines
        assert waiting.endswith(f"postgres  starting  waiting for {shown}: connection refused")
        assert last == (
            f"waymesh: DATABASE_URL is {shown}, which cannot be reached (connection refused): "
            "start that server, or correct it"
        )


async def test_who_waits_for_a_database_can_stop_at_once() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and says nothing
        port = silent.getsockname()[1]
        async with up(ready=False, DATABASE_URL=f"postgresql://x:secretword@127.0.0.1:{port}/x") as mesh:
            taken, _ = await asyncio.to_thread(silent.accept)
            with taken:
                mesh.send(signal.SIGINT)
                assert await mesh.wait() == 0
        assert not any("secretword" in line or "Traceback" in line for line in mesh.lines)


@on_one_mesh
async def test_commands_find_the_mesh_and_do_their_work(mesh: Up) -> None:
    code, out, _ = await mesh.run("status")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["feedback", "ready"],
        ["eta", "ready"],
        ["route", "ready"],
        ["agents", "ready"],
        ["gateway", "ready"],
    ]

    code, key, _ = await mesh.run("keys", "add", "partner", "--rate", "5", "--burst", "2")
    assert code == 0
    client = Client(mesh.gateway_port)
    assert (await client.task("get_gps_stats", {}, key=key.strip())).status == 200
    code, out, _ = await mesh.run("keys", "list")
    assert "partner" in out
    assert key.strip() not in out
    assert (await mesh.run("keys", "revoke", "partner"))[0] == 0
    async with asyncio.timeout(60):
        while (await client.task("get_gps_stats", {}, key=key.strip())).status != 401:
            await asyncio.sleep(0.02)
    await client.close()

    code, out, _ = await mesh.run("topics", "create")
    assert code == 0
    assert "all topics are in the embedded event bus" in out


@on_one_mesh
async def test_serve_joins_a_running_mesh_beside_its_service(mesh: Up) -> None:
    environ = {name: value for name, value in mesh.environ.items() if name != "WAYMESH_ETA_ADMIN_PORT"}
    process = await asyncio.create_subprocess_exec(
        *(*WAYMESH, "serve", "eta"),
        env={**environ, "WAYMESH_ETA_PORT": "0"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        async for line in process.stderr:
            if b'"eta is ready"' in line:
                break
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(60):
        await process.stderr.read()
        assert await process.wait() == 0


async def test_a_cluster_that_cannot_be_used_is_told_once_and_by_status_too() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        async with up(KAFKA_BOOTSTRAP_SERVERS=servers, WAYMESH_ETA_ORDERS_WAIT_S="0.1") as mesh:
            words = f"kafka     failing   the Kafka cluster at {servers} cannot be used: {servers} refuses"
            await mesh.until_line(re.escape(words))
            code, out, _ = await mesh.run("status")
            assert (code, out.count(words)) == (0, 1)
        assert sum(words in line for line in mesh.lines) == 1
