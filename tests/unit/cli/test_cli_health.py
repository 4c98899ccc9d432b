"""Where `waymesh health` asks."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli import health
from services.cli.environment import GATEWAY_ADMIN
from services.cli.errors import CliError
from services.cli.state import MeshState, RunLock, ServiceState, save


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def page() -> Iterator[int]:
    """The port of a health page that says yes."""
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


@pytest.fixture(autouse=True)
def gateway_with_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WAYMESH_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WAYMESH_TLS_CERT_FILE", "/tls/tls.crt")
    monkeypatch.delenv(GATEWAY_ADMIN.variable, raising=False)


def asked() -> str:
    """What is said of the gateway."""
    answer = CliRunner().invoke(health.command, ["gateway"], catch_exceptions=False, standalone_mode=False)
    return answer.output


@pytest.fixture
def mesh(tmp_path: Path, page: int) -> Iterator[MeshState]:
    """One that runs on the data folder, whose admin port nobody but it knows."""
    lock = RunLock(tmp_path)
    lock.acquire()
    gateway = ServiceState("gateway", "ready", 1, "127.0.0.1", 1, page)
    running = MeshState(1, str(tmp_path), "postgresql:///w", services={"gateway": gateway})
    save(tmp_path, running)
    yield running
    lock.release()


def test_of_a_mesh_with_certificates_it_asks_the_admin_port_that_up_chose(mesh: MeshState) -> None:
    assert asked() == "gateway is ready\n"


def test_a_variable_wins_over_the_mesh_that_runs(mesh: MeshState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GATEWAY_ADMIN.variable, "1")
    with pytest.raises(CliError, match=r"gateway at 127\.0\.0\.1:1 does not answer"):
        asked()


def test_without_either_it_says_which_variable_to_set() -> None:
    with pytest.raises(CliError, match=f"set {GATEWAY_ADMIN.variable}"):
        asked()
