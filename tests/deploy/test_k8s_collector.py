"""The collector that the mesh sends spans to: its file, its ports, and who reaches it."""

from typing import Any, Final

import pytest
import yaml
from manifests import FULLEST, Overlay, Workload, overlay
from policies import Place, Policies

from tools.k8s.render import OVERLAYS, ROOT

HOME: Final = "observability"
FILE: Final = ROOT / "deploy/observability/collector/otel-collector.yaml"
NAME: Final = "app.kubernetes.io/name"


@pytest.fixture
def rendering() -> Overlay:
    return overlay(FULLEST)


@pytest.fixture
def collector(rendering: Overlay) -> Workload:
    assert rendering.collector is not None
    return rendering.collector


def _at_home(rendering: Overlay, kind: str) -> dict[str, Any]:
    (found,) = (each for each in rendering.of_kind(kind) if each["metadata"]["namespace"] == HOME)
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_is_there_wherever_spans_are_sent_to_it(name: str) -> None:
    found = overlay(name)
    endpoint = found.workloads["eta"].environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")

    assert (found.collector is not None) == (endpoint is not None)
    if endpoint is not None:
        service = _at_home(found, "Service")
        (port,) = service["spec"]["ports"]
        assert endpoint == f"http://{service['metadata']['name']}.{HOME}:{port['port']}"


def test_the_name_that_the_edge_knows_leads_to_it(rendering: Overlay) -> None:
    (alias,) = (each for each in rendering.of_kind("Service") if each["spec"].get("type") == "ExternalName")
    service = _at_home(rendering, "Service")["metadata"]["name"]

    assert alias["spec"]["externalName"] == f"{service}.{HOME}.svc.cluster.local"


def test_it_reads_the_very_file_that_is_tested(rendering: Overlay, collector: Workload) -> None:
    (volume,) = collector.pod["volumes"]
    (mount,) = collector.container["volumeMounts"]
    (argument,) = collector.container["args"]
    held = rendering.config(volume["configMap"]["name"])

    assert held == {FILE.name: FILE.read_text()}
    assert argument == f"--config={mount['mountPath']}/{FILE.name}"
    assert mount["name"] == volume["name"]


def test_its_ports_and_probes_are_those_of_its_file(rendering: Overlay, collector: Workload) -> None:
    told = yaml.safe_load(FILE.read_text())
    port = {
        "health": _port(told["extensions"]["health_check"]["endpoint"]),
        "otlp-http": _port(told["receivers"]["otlp"]["protocols"]["http"]["endpoint"]),
        "metrics": told["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"][
            "port"
        ],
    }
    assert collector.ports == port
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert collector.container[probe]["httpGet"]["port"] == "health"
    (served,) = _at_home(rendering, "Service")["spec"]["ports"]
    assert port[served["targetPort"]] == served["port"]
    for variable in set(collector.environment) - {"GOMEMLIMIT"}:  # Go's own
        assert f"${{env:{variable}:-" in FILE.read_text()


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def test_it_is_one_pod_and_never_two(collector: Workload) -> None:
    """Else a trace would be decided on in halves."""
    spec = collector.document["spec"]

    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_it_refuses_before_it_is_killed_for_memory(collector: Workload) -> None:
    limiter = yaml.safe_load(FILE.read_text())["processors"]["memory_limiter"]

    limit_mib = int(collector.container["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert limiter["limit_mib"] + limiter["spike_limit_mib"] <= limit_mib


def test_it_is_the_collector_that_a_laptop_has(collector: Workload) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]["otel-collector"]

    assert collector.container["image"] == compose["image"]


def test_nobody_reaches_it_and_it_reaches_nobody_but_for_spans_and_figures(
    rendering: Overlay, collector: Workload
) -> None:
    policies = Policies(rendering, HOME)
    here = Place("collector", HOME, collector.labels)
    asked = [("TCP", port) for port in (443, 4317, 4318, 6443, 8888, 13133)]
    from_mesh = {("TCP", 4318)}

    for name, workload in rendering.workloads.items():
        assert policies.ports(Place(name, labels=workload.labels), here, asked) == from_mesh
    prometheus = Place("prometheus", "monitoring", {NAME: "prometheus"})
    assert policies.ports(prometheus, here, asked) == {("TCP", 8888)}
    for other in (Place("shell", HOME, {NAME: "shell"}), Place("world", address="203.0.113.9")):
        assert policies.ports(other, here, asked) == set()
        assert policies.ports(here, other, asked) == set()
    assert policies.ports(here, Place("jaeger", HOME, {NAME: "jaeger"}), asked) == {("TCP", 4318)}
    assert policies.ports(here, Place("dns", "kube-system", {"k8s-app": "kube-dns"}), [("UDP", 53)])
