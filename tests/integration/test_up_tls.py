"""A whole mesh of processes with certificates: it works as without, and outlives their rotation."""

import asyncio
import signal
from pathlib import Path

import pytest

from services.cli.probe import health
from tests.certificates import Authority
from tests.faults.up_rig import WAYMESH, Up, up
from tests.integration.gateway_rig import GPS, Client
from tests.integration.tls_mesh import client_context, put, succession, until_shown, variables
from tests.processes import until

pytestmark = pytest.mark.faults


class Requests:
    """Requests of the edge to the gateway, each on a connection of its own, one after the other."""

    def __init__(self, mesh: Up, folder: Path) -> None:
        self._mesh = mesh
        self._folder = folder
        self._number = 0
        self.answered = 0
        self.failed: list[object] = []

    async def run(self) -> None:
        while True:
            await self.ask()

    async def ask(self) -> None:
        client = Client(self._mesh.gateway_port, tls=client_context(self._folder, "edge"))
        self._number += 1
        fix = {**GPS, "driver_id": f"driver_{self._number}"}
        try:
            reply = await client.task("report_gps", fix, key=self._mesh.key)
            assert reply.status == 200, reply.body
            self.answered += 1
        except Exception as error:
            self.failed.append(error)
        finally:
            await client.close()


async def test_a_mesh_with_certificates_answers_and_outlives_their_rotation(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    folder = tmp_path / "tls"
    put(old, folder, old.trusted)
    async with up(**variables(folder), PROMETHEUS_PORT="0") as mesh:
        answer = await mesh.curl(await mesh.until_line("^  curl "))
        assert answer["status"] == "success"

        requests = Requests(mesh, folder)
        await requests.ask()
        asking = asyncio.create_task(requests.run())
        try:
            for authority, trusted in ((old, old.trusted), *succession(old, new)):
                await until_shown(mesh, folder, put(authority, folder, trusted))
                reached = requests.answered + 20
                await until(lambda reached=reached: requests.answered >= reached, "requests go on")
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert requests.failed == []

        restarted = await asyncio.create_subprocess_exec(
            *WAYMESH, "restart", "eta", env=mesh.environ, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await restarted.communicate()
        assert restarted.returncode == 0, said
        await requests.ask()
        assert requests.failed == []
        assert await mesh.run("health", "gateway") == (0, "gateway is ready\n", "")
        admin_port = mesh.state.services["gateway"].admin_port
        assert set((await health("127.0.0.1", admin_port)).checks.values()) == {"ok"}
        mesh.send(signal.SIGINT)
        assert await mesh.wait() == 0


async def test_a_mesh_whose_services_would_share_one_certificate_is_not_started(tmp_path: Path) -> None:
    paths = Authority().issue("eta").write(tmp_path)
    async with up(ready=False, **paths.variables) as mesh:
        line = await mesh.until_line("WAYMESH_TLS_CERT_FILE holds")
        assert "allowed is a certificate of feedback" in line
        assert "{service} in a path stands for the name" in line
