"""The rules hold what they say, in every place where they stand."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor import MethodDescriptor

from tests.observability.promtool import promtool
from tools.observability import derived
from tools.observability.manifests import SERVICES, rule_groups

FOLDER = derived.FOLDER / "prometheus"
RUNBOOK = derived.ROOT / "docs" / "runbook.md"


def _rules(kind: str) -> list[dict[str, Any]]:
    return [rule for group in rule_groups(derived.FOLDER) for rule in group["rules"] if kind in rule]


ALERTS = _rules("alert")
NAMES = [rule["alert"] for rule in ALERTS]


def _methods() -> Iterator[MethodDescriptor]:
    stubs = derived.ROOT / "gen" / "python"
    for path in stubs.glob("waymesh/**/*_service_pb2.py"):
        module = importlib.import_module(".".join(path.relative_to(stubs).with_suffix("").parts))
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def test_promtool_finds_nothing_wrong_with_rules_and_configuration() -> None:
    promtool("check", "rules", "--lint-fatal", *sorted((FOLDER / "rules").glob("*.yaml")))
    promtool("check", "config", FOLDER / "prometheus.yaml")


@pytest.mark.parametrize("path", sorted((FOLDER / "tests").glob("*.yaml")), ids=lambda path: path.stem)
def test_alerts_fire_and_resolve_as_their_unit_tests_say(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_in_a_unit_test_that_sees_it_fire(name: str) -> None:
    fired = "".join(path.read_text() for path in (FOLDER / "tests").glob("*.yaml"))
    assert f'alertname="{name}"' in fired


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_each_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_each_alert_has_its_section_in_the_runbook_and_each_section_its_alert() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == list(dict.fromkeys(sections))
    assert set(sections) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_section_says_what_it_means_how_to_look_what_to_do_and_whom_to_wake(name: str) -> None:
    section = RUNBOOK.read_text().partition(f"## {name}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\*\*(\w+)", section, re.MULTILINE) == ["Means", "Look", "Do", "Wake"]


def test_streams_have_no_part_in_latency_and_all_other_calls_do() -> None:
    """How long somebody listened is not how long somebody waited."""
    streams = {one.name for one in _methods() if one.server_streaming or one.client_streaming}
    latencies = [rule["expr"] for rule in _rules("record") if "latency" in rule["record"]]
    named = {name for text in latencies for told in re.findall(r'grpc_method!~?"([^"]+)"', text)
             for name in told.split("|")}  # fmt: skip
    assert named == streams


def test_every_service_is_scraped_in_both_places_and_missed_when_it_is_gone() -> None:
    (down,) = (rule["expr"] for rule in ALERTS if rule["alert"] == "WaymeshServiceDown")
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (job,) = (one for one in config["scrape_configs"] if one["job_name"] == "waymesh")
    scraped = {target["labels"]["service"] for target in job["static_configs"]}
    assert scraped == set(SERVICES) == set(re.findall(r'"service", "(\w+)"', down))


def test_what_is_derived_is_what_its_sources_give() -> None:
    """Else: `python -m tools.observability write`."""
    assert {path: path.read_text() for path in derived.present()} == derived.files()


@pytest.mark.parametrize("service", [*SERVICES, "edge"])
def test_the_pod_monitor_finds_the_metrics_of_each_service_and_of_the_edge(service: str) -> None:
    name, job = ("edge-monitor", "waymesh-edge") if service == "edge" else ("pod-monitor", "waymesh")
    monitor = yaml.safe_load((derived.FOLDER / "kubernetes" / f"{name}.yaml").read_text())["spec"]
    (wanted,) = monitor["selector"]["matchExpressions"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    manifests = yaml.safe_load_all((derived.ROOT / f"deploy/k8s/base/{service}.yaml").read_text())
    (pod,) = [one["spec"]["template"] for one in manifests if one["kind"] in ("Deployment", "StatefulSet")]
    assert pod["metadata"]["labels"][wanted["key"]] == service
    assert service in wanted["values"]
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {"targetLabel": "job", "replacement": job} in endpoint["relabelings"]


def test_the_edge_of_a_laptop_is_scraped_where_it_tells_its_figures() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (job,) = (one for one in config["scrape_configs"] if one["job_name"] == "waymesh-edge")
    edge = yaml.safe_load((derived.ROOT / "deploy/envoy/laptop.yaml").read_text())
    (probe,) = (one for one in edge["static_resources"]["listeners"] if one["name"] == "probe")
    port = probe["address"]["socket_address"]["port_value"]
    assert job["static_configs"] == [{"targets": [f"edge:{port}"], "labels": {"service": "edge"}}]


def test_nobody_is_woken_for_a_certificate_that_is_not_due_yet() -> None:
    """An alert before cert-manager renews would come with every renewal."""
    bounds = [rule["expr"] for rule in ALERTS if "CertificateExpiring" in rule["alert"]]
    days = [int(found) for text in bounds for found in re.findall(r"< (\d+) \* 24 \* 3600$", text)]
    assert len(days) == len(bounds) == 2
    made = [
        derived.ROOT / "deploy/k8s/components/every-pod/certificate.yaml",
        *sorted((derived.ROOT / "deploy/k8s/base").glob("*.yaml")),
    ]
    specs = [one["spec"] for path in made for one in yaml.safe_load_all(path.read_text())
             if one["kind"] == "Certificate" and "renewBefore" in one["spec"]]  # fmt: skip
    assert len(specs) >= 3
    for spec in specs:
        assert max(days) * 24 < int(spec["renewBefore"].removesuffix("h"))
