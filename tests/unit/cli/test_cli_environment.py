"""Where a mesh on this machine listens and keeps its data."""

import socket
from pathlib import Path

import pytest

from services.cli import environment
from services.cli.environment import (
    GATEWAY_ADMIN,
    SERVICES,
    check_free,
    free_port,
    ports,
    service,
    with_admin_ports,
)
from services.cli.errors import CliError
from services.mesh.settings import default_data_dir


def test_default_ports_are_those_of_the_contract() -> None:
    chosen = ports({})
    by_name = {spec.name: chosen[spec.port] for spec in SERVICES}
    assert by_name == {"gateway": 8000, "eta": 50051, "route": 50052, "feedback": 50053, "agents": 50054}
    admin = {spec.name: chosen[spec.admin] for spec in SERVICES}
    assert admin == {"gateway": 8000, "eta": 9101, "route": 9102, "feedback": 9103, "agents": 9104}
    assert [chosen[spec] for spec in service("gateway").others] == [3001, 3002]


def test_each_port_is_moved_by_its_variable_and_admin_ports_by_their_base() -> None:
    chosen = ports({"PORT": "8080", "WAYMESH_ETA_PORT": "1234", "PROMETHEUS_PORT": "9500"})
    assert chosen[service("gateway").port] == 8080
    assert chosen[service("eta").port] == 1234
    admins = [chosen[service(name).admin] for name in ("eta", "route", "feedback", "agents")]
    assert admins == [9500, 9501, 9502, 9503]


def test_port_0_means_free_ports_each_different() -> None:
    variables = {spec.variable: "0" for entry in SERVICES for spec in (*entry.ports, entry.admin)}
    chosen = ports(variables)
    assert len(set(chosen.values())) == len(chosen)
    assert 0 not in chosen.values()


@pytest.mark.parametrize("text", ["abc", "-1", "65536", "8000 ", "٣", "1e3"])
def test_what_is_no_port_is_refused_with_variable_and_value(text: str) -> None:
    with pytest.raises(CliError, match=r"^PORT holds '.*': allowed is an integer from 0 to 65535$"):
        ports({"PORT": text})


def test_two_listeners_with_one_port_are_refused_with_both_variables() -> None:
    with pytest.raises(CliError, match="WAYMESH_ETA_PORT") as refused:
        ports({"PORT": "50051"})
    assert "PORT" in str(refused.value)
    assert "50051" in str(refused.value)


def test_a_port_in_use_is_told_with_its_holder_and_its_variable() -> None:
    spec = service("eta").port
    with socket.socket() as other:
        # Such a listener would share the port with ours if nobody looked.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CliError, match=rf"port {port} \(eta\) is in use.*WAYMESH_ETA_PORT"):
            check_free(port, spec, {})
    check_free(port, spec, {})


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("nosuchhost.invalid", "which has no address"),
        ("127.0.0.1:8000", "which has no address"),
        ("a" * 70, "which has no address"),
        ("192.0.2.1", "which is no address of this machine"),  # TEST-NET-1, RFC 5737
    ],
)
@pytest.mark.parametrize("variable", ["WAYMESH_BIND_HOST", "WAYMESH_RUNTIME_HOST"])
def test_a_host_that_nobody_can_listen_on_here_is_told_by_its_variable(
    host: str, words: str, variable: str
) -> None:
    spec = next(port for entry in SERVICES for port in entry.ports if port.host_variable == variable)
    with pytest.raises(CliError, match=rf"^{variable} holds '{host}', {words}: set it to one of") as refused:
        check_free(free_port(), spec, {variable: host})
    assert "in use" not in str(refused.value)


def test_a_port_of_root_alone_is_told_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Denied(socket.socket):
        def bind(self, address: object) -> None:  # whoever runs the tests may be root
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket", Denied)
    with pytest.raises(CliError, match=r"^port 80 \(gateway\) is not this user's to take: set PORT to one"):
        check_free(80, service("gateway").port, {})


def test_the_data_folder_is_the_one_the_services_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    monkeypatch.delenv("WAYMESH_DATA_DIR", raising=False)
    for user in (0, 1000):
        monkeypatch.setattr("os.geteuid", lambda user=user: user)
        assert environment.data_dir() == default_data_dir()
    assert environment.data_dir({"WAYMESH_DATA_DIR": "/data/x"}) == Path("/data/x")


def test_the_gateway_has_an_admin_port_of_its_own_only_where_somebody_says_so() -> None:
    gateway = service("gateway")
    assert ports({})[GATEWAY_ADMIN] == ports({})[gateway.port]
    assert ports({GATEWAY_ADMIN.variable: "9205"})[GATEWAY_ADMIN] == 9205


def test_with_certificates_a_mesh_can_be_asked_for_its_health_without_one() -> None:
    assert GATEWAY_ADMIN.variable not in with_admin_ports({})
    tls = {"WAYMESH_TLS_CERT_FILE": "/tls/tls.crt"}
    assert with_admin_ports(tls)[GATEWAY_ADMIN.variable] == "9105"
    assert with_admin_ports({**tls, "PROMETHEUS_PORT": "9201"})[GATEWAY_ADMIN.variable] == "9205"
    assert with_admin_ports({**tls, GATEWAY_ADMIN.variable: "7000"})[GATEWAY_ADMIN.variable] == "7000"
