"""Every port, probe, variable and command of a manifest is what the service's process really has.

The processes of the production overlay run with the environment and on the ports of their manifests, each on
an address of its own, and are asked as a kubelet would ask them; they check their database's certificate.
"""

import inspect
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncpg.connect_utils
import pytest
from manifests import SERVICES, Overlay, overlay
from opentelemetry.sdk import environment_variables
from pods import Cluster, running
from postgres_door import tls_door

from services.agents.settings import AgentsSettings
from services.cli import main
from services.cli.doctor.services import variable
from services.eta.settings import EtaSettings
from services.feedback.settings import FeedbackSettings
from services.gateway.settings import GatewaySettings
from services.mesh.settings import MeshSettings, load
from services.route.settings import RouteSettings
from tests.certificates import Authority
from tools.k8s.render import OVERLAYS

SETTINGS: Final[dict[str, type[MeshSettings]]] = {
    "agents": AgentsSettings,
    "eta": EtaSettings,
    "feedback": FeedbackSettings,
    "gateway": GatewaySettings,
    "route": RouteSettings,
    "doctor": MeshSettings,
    "migrate": MeshSettings,
    "topics": MeshSettings,
}

# What a variable from a Secret holds, where not any text will do.
SECRETS: Final = {"DATABASE_URL": "postgresql://waymesh:secret@waymesh-database-rw.waymesh:5432/waymesh"}


@pytest.fixture(params=OVERLAYS)
def rendering(request: pytest.FixtureRequest) -> Overlay:
    return overlay(request.param)


@pytest.fixture(scope="module")
def cluster(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder, authority = tmp_path_factory.mktemp("pods"), Authority()
    with (
        tls_door(module_database, authority.issue("database"), folder / "door") as dsn,
        running(overlay("production"), folder, dsn, authority, SERVICES) as found,
    ):
        for name in SERVICES:
            found.pods[name].until("startupProbe")
        yield found


def read_by(service: str) -> set[str]:
    """Variables of its settings."""
    found = {str(each.validation_alias) for each in SETTINGS[service].model_fields.values()}
    # Which looks at every service, where its variable says.
    return found | set(map(variable, SERVICES)) if service == "doctor" else found


def read_by_libraries(name: str) -> bool:
    """Whether what we stand on reads it: the driver of the database, OpenTelemetry."""
    if name.startswith("PG"):
        return f"'{name}'" in inspect.getsource(asyncpg.connect_utils)
    return name == getattr(environment_variables, name, None)


def test_every_variable_is_one_that_its_process_reads(rendering: Overlay) -> None:
    for service in SETTINGS:
        if (workload := rendering.workloads.get(service)) is None:
            continue
        own = {each["name"]: each for each in workload.container["env"]}
        used = {name for each in own.values() for name in re.findall(r"\$\((\w+)\)", each.get("value", ""))}
        strange = {
            name for name in own if name not in read_by(service) | used and not read_by_libraries(name)
        }
        assert strange == set(), service


def test_every_key_of_a_config_map_is_one_that_a_process_with_it_reads(rendering: Overlay) -> None:
    for name in rendering.by_name("ConfigMap"):
        readers = {
            service
            for service in SETTINGS
            if service in rendering.workloads
            and {"configMapRef": {"name": name}} in rendering.workloads[service].container.get("envFrom", [])
        }
        if not readers:
            continue  # files
        read = set().union(*map(read_by, readers))
        assert set(rendering.config(name)) <= read, name


def test_every_value_is_one_that_the_settings_allow(
    rendering: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what Secrets hold, and files where they are mounted."""
    authority = Authority()
    for mount in ("kafka", "database"):
        (tmp_path / mount).mkdir()
        (tmp_path / mount / "ca.crt").write_bytes(authority.trusted)
    for service in SETTINGS.keys() & rendering.workloads.keys():
        workload = rendering.workloads[service]
        authority.issue(service, uris=tuple(workload.certificate["uris"])).write(tmp_path / "tls")
        with monkeypatch.context() as patch:
            for name in os.environ:
                patch.delenv(name)
            for name, value in workload.environment.items():
                given = SECRETS.get(name, "a-secret") if value is None else value
                patch.setenv(name, given.replace("/etc/waymesh", str(tmp_path)))

            settings = load(SETTINGS[service])

        with_bus = rendering.name == "production-kafka" and service not in ("gateway", "migrate")
        assert settings.kafka_enabled is with_bus, service


@pytest.mark.parametrize("service", sorted(SETTINGS))
def test_the_command_is_one_of_the_command_line(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = overlay("production-kafka").workloads[service].container["args"]

    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])

    assert ended.value.code == 0
    words = [word for word in arguments if word not in SERVICES]
    assert f"Usage: waymesh {' '.join(words)} " in capsys.readouterr().out


@pytest.mark.parametrize("service", SERVICES)
def test_the_process_listens_on_the_ports_of_its_manifest_and_on_no_others(
    cluster: Cluster, service: str
) -> None:
    pod = cluster.pods[service]
    pod.until("readinessProbe")

    assert pod.listening() == set(pod.workload.ports.values())


@pytest.mark.parametrize("service", SERVICES)
def test_the_probes_of_a_pod_that_serves_pass(cluster: Cluster, service: str) -> None:
    pod = cluster.pods[service]
    pod.until("readinessProbe")

    assert [kind for kind in ("startupProbe", "readinessProbe", "livenessProbe") if not pod.probe(kind)] == []


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_are_where_the_monitor_looks_for_them(cluster: Cluster, service: str) -> None:
    (endpoint,) = cluster.rendering.by_name("PodMonitor")["waymesh"]["spec"]["podMetricsEndpoints"]
    pod = cluster.pods[service]
    pod.until("readinessProbe")

    status, body = pod.http(pod.workload.ports[endpoint["port"]], endpoint["path"])

    assert status == 200
    assert b"process_cpu_seconds_total" in body


def test_the_gateway_reaches_the_others_where_the_settings_say_and_with_these_certificates(
    cluster: Cluster,
) -> None:
    gateway = cluster.pods["gateway"]
    for name in SERVICES:
        cluster.pods[name].until("readinessProbe")

    guard = time.monotonic() + 60
    wanted = {f'"{name}":"ok"'.encode() for name in SERVICES if name != "gateway"}
    while time.monotonic() < guard:
        body = gateway.http(gateway.workload.ports["admin"], "/health")[1].replace(b": ", b":")
        if all(each in body for each in wanted):
            return
        time.sleep(0.1)
    pytest.fail(f"{body!r} {gateway.said()}")


def test_a_start_that_lacks_a_file_or_a_variable_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """What the others hang on: with another name of one variable nothing would have started."""
    other = Cluster(cluster.rendering, tmp_path, cluster.dsn, cluster.authority, "127.63.0.")
    workload = other.rendering.workloads["eta"]
    environment = workload.environment
    environment["WAYMESH_TLS_CA_PATH"] = environment.pop("WAYMESH_TLS_CA_FILE")
    try:
        pod = other.run("eta")
        assert pod.process.wait(60) == 1
        assert "WAYMESH_TLS_CA_FILE is not set" in pod.said()
    finally:
        environment["WAYMESH_TLS_CA_FILE"] = environment.pop("WAYMESH_TLS_CA_PATH")


# Last: it ends what the others ask.
@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_that_drains_is_alive_and_not_ready_and_ends_within_its_grace(
    cluster: Cluster, service: str
) -> None:
    pod = cluster.pods[service]
    pod.until("readinessProbe")

    os.kill(pod.process.pid, signal.SIGTERM)
    pod.until("readinessProbe", holds=False)

    assert pod.probe("livenessProbe")
    os.kill(pod.process.pid, signal.SIGTERM)  # no further wait
    assert pod.process.wait(pod.workload.stop_s) == 0, pod.said()
