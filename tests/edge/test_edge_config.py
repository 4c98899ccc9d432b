"""deploy/envoy as Envoy reads it, and what it says beside what the services it stands before say."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from waymesh.agent.v1 import agent_registry_service_pb2, agent_service_pb2
from waymesh.eta.v1 import eta_service_pb2
from waymesh.feedback.v1 import feedback_service_pb2
from waymesh.route.v1 import route_service_pb2

from services.gateway.settings import MAX_TIMEOUT_MS, GatewaySettings
from services.mesh import request_id
from services.mesh.settings import load
from tests.edge.edge_rig import ENVOY
from tools import edge

PROTOS = Path(__file__).resolve().parents[2] / "protos" / "waymesh"
SERVICES = {
    "eta": [eta_service_pb2],
    "route": [route_service_pb2],
    "feedback": [feedback_service_pb2],
    "agents": [agent_service_pb2, agent_registry_service_pb2],
}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(edge.EDGE.read_text())
    return loaded


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> GatewaySettings:
    """The defaults."""
    for name in ("WAYMESH_MAX_HEAD_BYTES", "WAYMESH_MAX_BODY_BYTES", "WAYMESH_KEEP_ALIVE_S"):
        monkeypatch.delenv(name, raising=False)
    return load(GatewaySettings)


def listener(config: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each for each in config["static_resources"]["listeners"] if each["name"] == name]
    return found


def manager(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = listener(config, name)["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def routes(config: dict[str, Any], name: str) -> list[dict[str, Any]]:
    [host] = manager(config, name)["route_config"]["virtual_hosts"]
    found: list[dict[str, Any]] = host["routes"]
    return found


def certificates(folder: Path) -> Path:
    """A folder with the files that cert-manager mounts."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    for n, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(folder / "tls.crt", append=n > 0)
    return folder


def validated(file: Path) -> str:
    done = subprocess.run(
        [ENVOY, "--mode", "validate", "-c", file, "--log-level", "error"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_edge_with_tls_is_valid(tmp_path: Path) -> None:
    held = certificates(tmp_path)
    edge.write_sds(tmp_path / "sds", public=held, mesh=held)
    file = tmp_path / "edge.yaml"
    file.write_text(edge.EDGE.read_text().replace("/etc/envoy/sds", str(tmp_path / "sds")))
    assert validated(file) == f"configuration '{file}' OK\n"


@pytest.mark.parametrize("services", ["--ids=spiffe://waymesh/", "--plain-services"])
def test_the_edge_with_certificates_made_by_hand_is_valid(tmp_path: Path, services: str) -> None:
    (tmp_path / "edge").mkdir()
    certificates(tmp_path / "edge")
    file = tmp_path / "edge.yaml"
    made = [
        sys.executable,
        "-m",
        "tools.edge",
        "--certificates",
        tmp_path,
        services,
        "--at",
        "eta=localhost:50051",
    ]
    file.write_bytes(subprocess.run(made, capture_output=True, check=True).stdout)
    assert validated(file) == f"configuration '{file}' OK\n"
    text = file.read_text()
    assert "/etc/" not in text
    assert "cluster.local" not in text or "--ids" not in services
    assert ("spiffe://waymesh/eta" in text) == ("--ids" in services)


def test_the_edge_of_a_laptop_is_valid() -> None:
    assert validated(edge.LAPTOP) == f"configuration '{edge.LAPTOP}' OK\n"


def test_the_edge_of_a_laptop_is_made_of_the_other() -> None:
    assert edge.LAPTOP.read_text() == edge.laptop(), (
        "python -m tools.edge --laptop > deploy/envoy/laptop.yaml"
    )


def test_every_file_of_certificates_is_used(config: dict[str, Any]) -> None:
    named = set(re.findall(r"/etc/envoy/sds/[a-z-]+\.yaml", edge.EDGE.read_text()))
    assert named == {f"/etc/envoy/sds/{file.name}" for file in (edge.ENVOY / "sds").iterdir()}


@pytest.mark.parametrize(
    "secret",
    [
        "wm_0123456789abcdefghijklmn",
        "sk-0123456789abcdef",
        "rk_live_01234567",
        "ghp_0123456789abcdefghij",
        "github_pat_0123456789abcdefghij",
        "glpat-0123456789abcdef",
        "hf_0123456789abcdef",
        "xoxb-0123456789",
        "AKIA0123456789ABCDEF",
        "AIza0123456789abcdefghijklmnopqrstuv",
        "eyJhbGciOiJI.eyJzdWIi.c2ln",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_key_is_known_wherever_the_edge_judges_it(secret: str) -> None:
    judged = re.findall(r"matches\(r'([^']+)'\)", edge.EDGE.read_text())
    assert len(judged) == 3  # the name of a request, what other tracers say, and a path
    assert len(set(judged)) == 1
    form = re.compile(judged[0].replace("\\\\", "\\"))
    assert not request_id.is_valid(f"of/{secret}")
    assert form.search(f"of/{secret}")
    assert not form.search("/api/orders/task_1/ask-me/order-456/risk_of_rain")


def test_nothing_is_sent_twice(config: dict[str, Any]) -> None:
    """Retries are the mesh client's."""
    assert "retry_policy" not in edge.EDGE.read_text()
    assert "hedge_policy" not in edge.EDGE.read_text()
    rooms = [
        room
        for cluster in config["static_resources"]["clusters"]
        for room in cluster.get("circuit_breakers", {}).get("thresholds", [])
    ]
    assert rooms
    assert {room["max_retries"] for room in rooms} == {0}


def test_the_admin_port_is_for_its_own_host(config: dict[str, Any]) -> None:
    assert config["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_sizes_are_those_of_the_gateway(config: dict[str, Any], settings: GatewaySettings) -> None:
    public = manager(config, "public")
    [body] = [each for each in public["http_filters"] if each["name"] == "envoy.filters.http.buffer"]
    assert body["typed_config"]["max_request_bytes"] == settings.max_body_bytes
    assert public["max_request_headers_kb"] * 1024 == settings.max_head_bytes


def test_no_time_is_shorter_than_what_a_request_may_ask_for(config: dict[str, Any]) -> None:
    for route in routes(config, "public"):
        if "route" in route:
            timeout_s = float(route["route"]["timeout"].removesuffix("s"))
            assert timeout_s == 0 or timeout_s * 1000 > MAX_TIMEOUT_MS + 5000
    assert float(manager(config, "public")["stream_idle_timeout"].removesuffix("s")) * 1000 > MAX_TIMEOUT_MS


def test_an_idle_connection_to_the_gateway_is_ended_at_this_end(
    config: dict[str, Any], settings: GatewaySettings
) -> None:
    [gateway] = [each for each in config["static_resources"]["clusters"] if each["name"] == "gateway"]
    [options] = gateway["typed_extension_protocol_options"].values()
    idle_s = float(options["common_http_protocol_options"]["idle_timeout"].removesuffix("s"))
    assert idle_s < settings.keep_alive_s


def methods() -> list[tuple[str, str, bool]]:
    """Owner, path and whether it streams, of every RPC of the typed services."""
    found = []
    for owner, modules in SERVICES.items():
        for module in modules:
            for service in module.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    streams = method.client_streaming or method.server_streaming
                    found.append((owner, f"/{service.full_name}/{method.name}", streams))
    return found


def first_match(found: list[dict[str, Any]], path: str) -> dict[str, Any]:
    for route in found:
        if "route" not in route:
            continue  # a refusal of what is no call
        match = route["match"]
        regex = match.get("safe_regex", {}).get("regex")
        if (regex is not None and re.fullmatch(regex, path)) or path.startswith(match.get("prefix", "\0")):
            action: dict[str, Any] = route["route"]
            return action
    raise AssertionError(f"{path} is not routed")


@pytest.mark.parametrize(("owner", "path", "streams"), methods())
def test_each_rpc_goes_to_its_owner_and_a_stream_may_be_silent(
    config: dict[str, Any], owner: str, path: str, streams: bool
) -> None:
    action = first_match(routes(config, "internal"), path)
    assert action["cluster"] == owner
    assert action["timeout"] == "0s"
    assert ("idle_timeout" in action) == streams


def test_every_service_of_the_contracts_is_known_here() -> None:
    """Whoever adds a service routes it here too."""
    written = "\n".join(file.read_text() for file in PROTOS.rglob("*_service.proto"))
    declared = set(re.findall(r"^service (\w+) \{", written, re.MULTILINE))
    assert declared == {path.split("/")[1].rpartition(".")[2] for _, path, _ in methods()}


def test_names_are_those_of_the_certificates_that_the_manifests_ask_for() -> None:
    asked = {
        uri
        for path in (edge.ENVOY.parent / "k8s" / "base").glob("*.yaml")
        for document in yaml.safe_load_all(path.read_text())
        if document and document["kind"] == "Certificate"
        for uri in document["spec"].get("uris", ())
    }
    [known] = re.findall(r"regex: '(spiffe://[^']+)'", edge.EDGE.read_text())
    assert asked
    assert all(re.fullmatch(known, uri) for uri in asked)
    expected = set(re.findall(r'exact: "(spiffe://[^"]+)"', edge.EDGE.read_text()))
    assert expected == {uri for uri in asked if uri.rpartition("/")[2] in {*SERVICES, "gateway"}}
