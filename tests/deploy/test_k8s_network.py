"""The ways that network policies open are those that the code goes: no more, and none is missing."""

from typing import Any, Final

import code_calls
import pytest
import yaml
from manifests import SERVICES, Overlay, overlay
from policies import CALLERS, OURS, Place, Policies

from services.mesh.tls.callers import CALLS, EDGE, OPERATOR
from tools.k8s.render import OVERLAYS, ROOT

NAME: Final = "app.kubernetes.io/name"
CNPG: Final = "cnpg.io/cluster"
Way = tuple[str, str, int]
"""From whom, to whom, and the TCP port."""

DATABASE: Final = Place("database", labels={CNPG: "waymesh-database"})
DATABASE_OPERATOR: Final = Place("cnpg", "cnpg-system", {NAME: "cloudnative-pg"})
PROMETHEUS: Final = Place("prometheus", "monitoring", {NAME: "prometheus"})
COLLECTOR: Final = Place("collector", "observability", {NAME: "otel-collector"})
BROKERS: Final = Place("kafka", "kafka", {"strimzi.io/cluster": "waymesh", NAME: "kafka"})
DNS: Final = Place("dns", "kube-system", {"k8s-app": "kube-dns"})
CALLER: Final = Place("caller", CALLERS, {NAME: "shop"})
# Who has no business here: somebody in another namespace by a name of ours, a pod that nobody knows, the API
# of the cloud's machines, a private network.
STRANGER: Final = Place("stranger", "elsewhere", {NAME: "gateway"})
INTRUDER: Final = Place("intruder", labels={NAME: "shell"})
WORLD: Final = Place("world", address="203.0.113.9")
METADATA: Final = Place("metadata", address="169.254.169.254")
OFFICE: Final = Place("office", address="10.1.2.3")
OTHERS: Final = (
    *(DATABASE, DATABASE_OPERATOR, PROMETHEUS, COLLECTOR, BROKERS, DNS, CALLER),
    *(STRANGER, INTRUDER, WORLD, METADATA, OFFICE),
)


@pytest.fixture(params=OVERLAYS)
def rendering(request: pytest.FixtureRequest) -> Overlay:
    return overlay(request.param)


def pods(rendering: Overlay) -> dict[str, Place]:
    """By the name that policies know them by."""
    labels = [each.labels for each in rendering.workloads.values()]
    return {each[NAME]: Place(each[NAME], labels=each) for each in labels}


def ports_of(rendering: Overlay) -> list[tuple[str, int]]:
    """Every port that anything here names, and some that nobody should reach."""
    named = {port for each in rendering.workloads.values() for port in each.ports.values()}
    for policy in rendering.of_kind("NetworkPolicy"):
        for rule in (*(policy["spec"].get("ingress") or []), *(policy["spec"].get("egress") or [])):
            named |= {each["port"] for each in rule.get("ports", [])}
    return [("TCP", port) for port in sorted(named | {22, 80, 3001, 9901, 10250})]


def open_ways(rendering: Overlay) -> set[Way]:
    policies, asked = Policies(rendering), ports_of(rendering)
    places = [*pods(rendering).values(), *OTHERS]
    return {
        (source.name, target.name, port)
        for source in places
        for target in places
        if source is not target and (is_ours(source) or is_ours(target))
        for _, port in policies.ports(source, target, asked)
    }


def is_ours(place: Place) -> bool:
    return place.namespace == OURS and place.address is None


def rpc_port(rendering: Overlay, service: str) -> int:
    (port,) = rendering.by_name("Service")[service]["spec"]["ports"]
    return int(port["port"])


def test_the_table_of_callers_is_what_the_code_calls() -> None:
    """By whom Envoy and the command line are told: the rest is read from the services' own code."""
    in_code = {(name, called) for name in SERVICES for called in code_calls.called_by(name)}

    assert in_code == {(call.caller, call.service) for call in CALLS if call.caller not in (EDGE, OPERATOR)}


def test_the_edge_calls_all_that_its_routes_lead_to() -> None:
    text = yaml.safe_load((ROOT / "deploy/envoy/edge.yaml").read_text())
    routes = _found(text["static_resources"]["listeners"], "route")
    routed = {each["cluster"] for each in routes} - {"self"}

    assert routed == {call.service for call in CALLS if call.caller == EDGE}


def _found(part: object, key: str) -> list[dict[str, Any]]:
    if isinstance(part, list):
        return [each for one in part for each in _found(one, key)]
    if not isinstance(part, dict):
        return []
    here = [part[key]] if isinstance(part.get(key), dict) else []
    return here + [each for one in part.values() for each in _found(one, key)]


def test_policies_open_the_ways_that_are_gone_and_no_others(rendering: Overlay) -> None:
    there = rendering.workloads
    wanted: set[Way] = {(call.caller, call.service, rpc_port(rendering, call.service)) for call in CALLS}
    keepers = {name for name in SERVICES if code_calls.keeps_something(name)} | {"migrate", OPERATOR}
    wanted |= {(name, "database", 5432) for name in keepers}
    if "topics" in there:
        readers = {name for name in SERVICES if code_calls.has_a_bus(name)} | {"topics", OPERATOR}
        wanted |= {(name, "kafka", 9093) for name in readers}
    if any(each.environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") for each in there.values()):
        wanted |= {(name, "collector", 4318) for name in (*SERVICES, EDGE, OPERATOR)}
    wanted |= {("prometheus", name, there[name].ports["admin"]) for name in (*SERVICES, EDGE)}
    wanted |= {(name, "world", 443) for name in SERVICES if code_calls.speaks_to_the_world(name)}
    wanted |= {(name, "dns", 53) for name in (*pods(rendering), "database", "intruder")}
    # The public listener is for everybody, wherever; the other one for namespaces that may call.
    everybody = {
        "world",
        "office",
        "metadata",
        "stranger",
        "caller",
        "cnpg",
        "prometheus",
        "collector",
        "kafka",
        "dns",
    }
    wanted |= {(name, EDGE, 8443) for name in everybody} | {("caller", EDGE, 9443)}
    # CloudNativePG: what its instances and its operator need, as its own documents say.
    wanted |= {("cnpg", "database", port) for port in (5432, 8000)} | {("prometheus", "database", 9187)}
    wanted |= {("database", name, port) for name in everybody - {"dns"} for port in (443, 6443)}
    wanted |= {("database", "dns", port) for port in (443, 6443)} | {("database", "cnpg", 9090)}

    assert open_ways(rendering) == wanted


def test_a_policy_that_is_missing_or_too_wide_is_seen() -> None:
    found = Overlay("production")
    found.documents = [each for each in found.documents if each["metadata"]["name"] != "telemetry"]
    assert ("eta", "collector", 4318) not in open_ways(found)

    for each in found.of_kind("NetworkPolicy"):
        if each["metadata"]["name"] == "eta":
            each["spec"]["ingress"].append({})
    assert ("stranger", "eta", 50051) in open_ways(found)


def test_names_are_asked_for_by_udp_as_well(rendering: Overlay) -> None:
    policies = Policies(rendering)
    for pod in pods(rendering).values():
        assert policies.ports(pod, DNS, [("UDP", 53)]) == {("UDP", 53)}
        assert policies.ports(pod, WORLD, [("UDP", 53), ("TCP", 53)]) == set()
