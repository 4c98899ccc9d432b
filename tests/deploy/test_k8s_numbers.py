"""Numbers in manifests that follow from numbers in the code: time to end, connections, partitions, topics."""

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, Final

import code_calls
import pytest
import yaml
from manifests import FULLEST, SERVICES, Overlay, overlay

from services.agents.server import Agents
from services.agents.settings import AgentsSettings
from services.eta.server import Eta
from services.eta.settings import EtaSettings
from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.gateway.listener import HttpServer
from services.mesh import lifecycle
from services.mesh.events.topics import TOPICS
from services.mesh.settings import MeshSettings
from services.mesh.store import Store
from services.route.server import Route
from services.route.settings import RouteSettings
from tools.k8s.render import OVERLAYS, ROOT

EDGE: Final = yaml.safe_load((ROOT / "deploy/envoy/edge.yaml").read_text())["static_resources"]
DRAIN: Final = (ROOT / "deploy/envoy/drain.sh").read_text()
ENVOY_README: Final = (ROOT / "deploy/envoy/README.md").read_text()
COMPOSE: Final = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
DSN: Final = "postgresql://nobody@127.0.0.1:1/none"
PROCESSES: Final[dict[str, tuple[Any, Any]]] = {
    "agents": (Agents, AgentsSettings),
    "eta": (Eta, EtaSettings),
    "feedback": (Feedback, FeedbackSettings),
    "route": (Route, RouteSettings),
}


@cache
def grace_s(service: str) -> float:
    """How long calls under way may go on once new ones are refused, as the process is made."""
    if service == "gateway":
        return float(default(HttpServer, "grace_s"))
    kind, settings = PROCESSES[service]
    return float(kind(settings(), DSN).server._grace_s)


# Beside the pool: what listens for news of the bus, and what a rollout has twice for a while.
MORE_CONNECTIONS: Final = 3


@pytest.fixture(params=OVERLAYS)
def rendering(request: pytest.FixtureRequest) -> Overlay:
    return overlay(request.param)


def default(function: Callable[..., Any], parameter: str) -> Any:
    return inspect.signature(function).parameters[parameter].default


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_is_not_killed_before_its_drain_is_over(rendering: Overlay, service: str) -> None:
    workload = rendering.workloads[service]
    drain_s = float(str(workload.environment["WAYMESH_DRAIN_S"]))
    # Background tasks, the server and what is closed after it: each may take so long if it hangs.
    end_s = 3 * lifecycle._STOP_S

    assert workload.pre_stop_s + drain_s + grace_s(service) + end_s <= workload.stop_s


def test_the_edge_is_not_killed_before_its_last_answer(rendering: Overlay) -> None:
    waits = {name: int(value) for name, value in re.findall(r"(\w+_S)=\$\{\w+:-(\d+)\}", DRAIN)}
    routes = str(EDGE["listeners"])
    longest_s = max(float(each) for each in re.findall(r"'timeout': '([\d.]+)s'", routes))

    # LONGEST_S counts from the start of the script, and the last request comes when HEARD_S is over.
    assert waits["LONGEST_S"] - waits["HEARD_S"] >= longest_s
    # A look that is not answered may be under way at its end.
    end_s = waits["LONGEST_S"] + waits["ANSWER_S"] + lifecycle._STOP_S
    assert end_s <= rendering.workloads["edge"].stop_s


@pytest.mark.parametrize("service", SERVICES)
def test_the_edge_has_seen_a_drain_before_calls_are_refused(service: str) -> None:
    (cluster,) = (each for each in EDGE["clusters"] if each["name"] == service)
    (check,) = cluster["health_checks"]
    seconds = {
        key: float(str(check[key]).removesuffix("s")) for key in ("interval", "interval_jitter", "timeout")
    }
    seen_s = check["unhealthy_threshold"] * sum(seconds.values())

    for name in ("production", "production-kafka"):
        workload = overlay(name).workloads[service]
        assert seen_s < float(str(workload.environment["WAYMESH_DRAIN_S"]))


def test_a_drain_is_never_shorter_than_the_edge_needs_to_see_it(rendering: Overlay) -> None:
    told = re.search(
        r"`WAYMESH_DRAIN_S` of services has to be (\d+) s or more", " ".join(ENVOY_README.split())
    )
    assert told is not None
    needed_s = float(told[1])
    for check in (each for cluster in EDGE["clusters"] for each in cluster.get("health_checks", [])):
        apart_s = sum(float(check[key].removesuffix("s")) for key in ("interval", "interval_jitter"))
        assert check["unhealthy_threshold"] * apart_s < needed_s
    # A request may be sent at the moment the gateway ends a connection that is still there.
    (gateway,) = (cluster for cluster in EDGE["clusters"] if cluster["name"] == "gateway")
    (options,) = gateway["typed_extension_protocol_options"].values()
    assert float(options["common_http_protocol_options"]["idle_timeout"].removesuffix("s")) < needed_s

    for service in SERVICES:
        assert float(str(rendering.workloads[service].environment["WAYMESH_DRAIN_S"])) >= needed_s
        assert float(COMPOSE["services"][service]["environment"]["WAYMESH_DRAIN_S"]) >= needed_s


@pytest.mark.parametrize("service", sorted({*SERVICES} - {"gateway"}))
def test_a_start_may_wait_for_the_store_and_for_orders(rendering: Overlay, service: str) -> None:
    probe = rendering.workloads[service].container["startupProbe"]
    orders_s = EtaSettings.model_fields["orders_wait_s"].default

    patience_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert patience_s >= 2 * (default(Store.open, "connect_s") + orders_s)


@pytest.mark.parametrize("name", ["production", "production-kafka"])
def test_the_database_has_connections_for_all_replicas_at_their_most(name: str) -> None:
    found = overlay(name)
    most: dict[str, int] = {}
    for scaler in found.of_kind("HorizontalPodAutoscaler", "ScaledObject"):
        spec = scaler["spec"]
        most[spec["scaleTargetRef"]["name"]] = spec.get("maxReplicas") or spec["maxReplicaCount"]
    pools = dict.fromkeys(SERVICES, default(Store.open, "max_size"))
    pools["gateway"] = 2
    wanted = sum(most[service] * (pools[service] + MORE_CONNECTIONS) for service in SERVICES)

    cluster = found.by_name("Cluster")["waymesh-database"]["spec"]
    assert wanted <= int(cluster["postgresql"]["parameters"]["max_connections"]) - 10  # the operator's own


def test_lag_is_asked_for_of_the_groups_and_topics_that_services_read() -> None:
    found = overlay(FULLEST)
    prefix = MeshSettings.model_fields["kafka_group_id"].default
    asked: dict[str, set[str]] = {}
    for scaled in found.of_kind("ScaledObject"):
        spec = scaled["spec"]
        service = spec["scaleTargetRef"]["name"]
        triggers = [each["metadata"] for each in spec["triggers"] if each["type"] == "kafka"]
        environment = found.workloads[service].environment
        for each in triggers:
            assert each["consumerGroup"] == f"{prefix}.{service}"
            assert each["bootstrapServers"] == environment["KAFKA_BOOTSTRAP_SERVERS"]
        asked[service] = {each["topic"] for each in triggers}
        # More replicas than partitions would have nothing to read.
        assert spec["maxReplicaCount"] <= max(TOPICS[topic].partitions for topic in asked[service])

    assert asked == {
        name: topics for service in SERVICES for name, topics in code_calls.groups(service).items()
    }


def test_topics_are_kept_by_strimzi_as_the_code_means_them() -> None:
    kept = {}
    for each in overlay(FULLEST).of_kind("KafkaTopic"):
        spec, config = each["spec"], each["spec"]["config"]
        kept_ms = int(config["retention.ms"])
        retention = None if kept_ms == -1 else timedelta(milliseconds=kept_ms)
        policy = set(config["cleanup.policy"].split(","))
        assert spec["replicas"] == 3
        assert int(config["min.insync.replicas"]) == 2
        assert each["metadata"]["namespace"] == "kafka"
        kept[each["metadata"]["name"]] = (spec["partitions"], "compact" in policy, retention)
        # Compacted and for ever, or deleted by age, or both: nothing else would be kept as long.
        assert ("delete" in policy) == (retention is not None)

    assert kept == {each.name: (each.partitions, each.compacted, each.retention) for each in TOPICS.values()}


def test_the_user_of_kafka_has_rights_to_the_topics_and_groups_of_the_code_alone() -> None:
    (user,) = overlay(FULLEST).of_kind("KafkaUser")
    given = overlay(FULLEST).workloads["topics"].environment
    assert not given.keys() & {"KAFKA_GROUP_ID", "KAFKA_OUTCOME_TOPIC", "KAFKA_METRICS_TOPIC"}
    rights = {
        (each["resource"]["type"], each["resource"].get("name"), each["resource"].get("patternType")): {
            *each["operations"]
        }
        for each in user["spec"]["authorization"]["acls"]
    }
    prefix = MeshSettings.model_fields["kafka_group_id"].default

    assert rights == {
        ("group", f"{prefix}.", "prefix"): {"Describe", "Read"},
        **{
            ("topic", name, "literal"): {*("Create", "Describe", "DescribeConfigs", "Read", "Write")}
            for name in TOPICS
        },
    }


def test_how_many_there_are_is_said_by_the_autoscaler_or_by_the_manifest(rendering: Overlay) -> None:
    """By both, each `kubectl apply` would undo what load had called for, or be refused for it."""
    scaled = [
        each["spec"]["scaleTargetRef"]
        for each in rendering.of_kind("HorizontalPodAutoscaler", "ScaledObject")
    ]
    by_load = {(each["kind"], each["name"]) for each in scaled}
    assert len(by_load) == len(scaled)

    for name in (*SERVICES, "edge"):
        document = rendering.workloads[name].document
        assert ("replicas" in document["spec"]) != ((document["kind"], name) in by_load), name
