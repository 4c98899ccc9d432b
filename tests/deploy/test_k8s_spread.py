"""What runs more than once is not lost with one host: where replicas come to stand, and what drains take."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import pytest
from manifests import SERVICES, Overlay, Workload, overlay, selects
from scheduler import HOST, ZONE, Node, Placed, Scheduler

from tools.k8s.render import OVERLAYS

PRODUCTION: Final = [name for name in OVERLAYS if name.startswith("production")]
SERVING: Final = [*SERVICES, "edge"]
NODES: Final = [Node("one", "a"), Node("two", "a"), Node("three", "b")]
REVISION: Final = {"Deployment": "pod-template-hash", "StatefulSet": "controller-revision-hash"}


def several(rendering: Overlay) -> dict[str, tuple[Workload, int]]:
    """What runs more than once, and how often when nothing calls for more."""
    fewest = {
        (each["spec"]["scaleTargetRef"]["kind"], each["spec"]["scaleTargetRef"]["name"]): (
            each["spec"].get("minReplicas", 1)
            if each["kind"] == "HorizontalPodAutoscaler"
            else each["spec"].get("minReplicaCount", 0)
        )
        for each in rendering.of_kind("HorizontalPodAutoscaler", "ScaledObject")
    }
    found = {}
    for document in rendering.of_kind("Deployment", "StatefulSet"):
        name = document["metadata"]["name"]
        replicas = fewest.get((document["kind"], name), document["spec"].get("replicas", 1))
        if replicas > 1:
            found[name] = (Workload(document, rendering), replicas)
    return found


def faults(rendering: Overlay) -> list[str]:
    """What would have several replicas of one thing go together, a line each; none if nothing would."""
    found = []
    for name, (workload, replicas) in several(rendering).items():
        found += [f"{name}: {told}" for told in (*_not_spread(workload), *_not_guarded(workload, replicas))]
    return found


def _meant(workload: Workload, selector: Any) -> set[str]:
    """All of the same namespace whose pods the selector means; with none given, it means nobody."""
    namespace = workload.document["metadata"]["namespace"]
    kinds = ("CronJob", "Deployment", "Job", "StatefulSet")
    others = [
        Workload(each, workload.overlay)
        for each in workload.overlay.of_kind(*kinds)
        if each["metadata"]["namespace"] == namespace
    ]
    return {each.name for each in others if selector is not None and selects(selector, each.labels)}


def _not_spread(workload: Workload) -> Iterable[str]:
    constraints = workload.pod.get("topologySpreadConstraints", [])
    for key in (HOST, ZONE):
        mine = [each for each in constraints if each["topologyKey"] == key]
        if not mine:
            yield f"is not spread over {key}"
        for each in mine:
            meant = _meant(workload, each.get("labelSelector"))
            if meant != {workload.name}:
                yield f"is spread over {key} among {sorted(meant)}"
            if each["maxSkew"] != 1:
                yield f"may stand {each['maxSkew']} times more on one {key} than on another"


def _not_guarded(workload: Workload, replicas: int) -> Iterable[str]:
    namespace = workload.document["metadata"]["namespace"]
    budgets = [
        each["spec"]
        for each in workload.overlay.of_kind("PodDisruptionBudget")
        if each["metadata"]["namespace"] == namespace and selects(each["spec"]["selector"], workload.labels)
    ]
    # With two, Kubernetes refuses every eviction.
    if len(budgets) != 1:
        yield f"has {len(budgets)} budgets"
    for budget in budgets:
        meant = _meant(workload, budget["selector"])
        if meant != {workload.name}:
            yield f"shares its budget among {sorted(meant)}"
        stay = (
            _part(budget["minAvailable"], replicas)
            if "minAvailable" in budget
            else replicas - _part(budget["maxUnavailable"], replicas)
        )
        if stay < 1:
            yield f"may lose all {replicas} at once"
        if stay >= replicas:
            yield "lets no node be drained"


def _part(said: int | str, replicas: int) -> int:
    """A number of pods, or a percentage, which is rounded up."""
    return math.ceil(int(said.removesuffix("%")) * replicas / 100) if isinstance(said, str) else said


@pytest.mark.parametrize("name", OVERLAYS)
def test_replicas_are_spread_and_a_drain_leaves_one(name: str) -> None:
    assert faults(overlay(name)) == []


@pytest.mark.parametrize("name", PRODUCTION)
def test_all_that_serves_in_production_is_there_twice(name: str) -> None:
    assert sorted(several(overlay(name))) == sorted(SERVING)


def edge_of(rendering: Overlay, kind: str = "Deployment") -> Any:
    return rendering.by_name(kind)["edge"]["spec"]


def no_hosts(rendering: Overlay) -> None:
    pod = edge_of(rendering)["template"]["spec"]
    pod["topologySpreadConstraints"] = [
        each for each in pod["topologySpreadConstraints"] if each["topologyKey"] != HOST
    ]


def all_together(rendering: Overlay) -> None:
    for each in edge_of(rendering)["template"]["spec"]["topologySpreadConstraints"]:
        each["labelSelector"] = {"matchLabels": {"app.kubernetes.io/part-of": "waymesh"}}


def nobody(rendering: Overlay) -> None:
    for each in edge_of(rendering)["template"]["spec"]["topologySpreadConstraints"]:
        del each["labelSelector"]


def renamed(rendering: Overlay) -> None:
    edge_of(rendering)["template"]["metadata"]["labels"]["app.kubernetes.io/name"] = "envoy"


def no_budget(rendering: Overlay) -> None:
    edge_of(rendering, "PodDisruptionBudget")["selector"] = {
        "matchLabels": {"app.kubernetes.io/name": "envoy"}
    }


def every_one(rendering: Overlay) -> None:
    edge_of(rendering, "PodDisruptionBudget")["maxUnavailable"] = "51%"


def not_one(rendering: Overlay) -> None:
    budget = edge_of(rendering, "PodDisruptionBudget")
    del budget["maxUnavailable"]
    budget["minAvailable"] = 2


def of_all(rendering: Overlay) -> None:
    edge_of(rendering, "PodDisruptionBudget")["selector"] = {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (no_hosts, "edge: is not spread over kubernetes.io/hostname"),
        (all_together, "edge: is spread over kubernetes.io/hostname among ['agents', "),
        (nobody, "edge: is spread over kubernetes.io/hostname among []"),
        (renamed, "edge: is spread over kubernetes.io/hostname among []"),
        (no_budget, "edge: has 0 budgets"),
        (every_one, "edge: may lose all 2 at once"),
        (not_one, "edge: lets no node be drained"),
        (of_all, "agents: has 2 budgets"),
    ],
)
def test_what_would_go_together_is_found(change: Callable[[Overlay], None], told: str) -> None:
    wrong = copy.deepcopy(overlay("production"))
    change(wrong)

    assert any(each.startswith(told) for each in faults(wrong)), faults(wrong)


def scheduler(workload: Workload) -> Scheduler:
    label = REVISION[workload.document["kind"]]
    return Scheduler(NODES, workload.pod["topologySpreadConstraints"], workload.labels, label)


def crowded(found: Iterable[Placed], nodes: Sequence[Node] = NODES) -> list[Placed]:
    """Where replicas share a host although another has none of them."""
    return [
        placed
        for placed in found
        if max(Counter(node for node, _ in placed).values()) > 1
        and len({node for node, _ in placed}) < len(nodes)
    ]


def in_one_zone(found: Iterable[Placed]) -> list[Placed]:
    return [placed for placed in found if len({node.zone for node, _ in placed}) < 2]


def surges(workload: Workload) -> bool:
    """Whether a rollout starts the new pod before it ends an old one: never of a StatefulSet."""
    if workload.document["kind"] == "StatefulSet":
        return False
    assert workload.document["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    return True


@pytest.fixture(
    params=[(overlay_name, name) for overlay_name in PRODUCTION for name in SERVING], ids="-".join
)
def workload(request: pytest.FixtureRequest) -> Workload:
    return several(overlay(request.param[0]))[request.param[1]][0]


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_no_two_share_a_host_while_another_has_none(workload: Workload, replicas: int) -> None:
    started = scheduler(workload).started(replicas)

    assert {len(placed) for placed in started} == {replicas}
    assert crowded(started) == []
    assert in_one_zone(started) == []


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_nor_do_they_after_a_rollout(workload: Workload, replicas: int) -> None:
    it = scheduler(workload)
    rolled = it.rolled(it.started(replicas), surge=surges(workload))

    assert {len(placed) for placed in rolled} == {replicas}
    assert crowded(rolled) == []
    assert in_one_zone(rolled) == []


@pytest.mark.parametrize("lost", NODES, ids=lambda node: node.name)
def test_nor_when_a_node_is_lost_with_what_ran_there(workload: Workload, lost: Node) -> None:
    it = scheduler(workload)
    left = it.without(lost, it.started(2))

    assert {len(placed) for placed in left} == {2}
    assert crowded(left, [node for node in NODES if node != lost]) == []


def test_without_the_word_of_hosts_they_would_share_one() -> None:
    wrong = copy.deepcopy(overlay("production"))
    no_hosts(wrong)

    assert crowded(scheduler(wrong.workloads["edge"]).started(3)) != []


def test_a_rule_has_a_pod_wait_where_a_wish_does_not() -> None:
    def placed_by(when: str) -> Scheduler:
        only = {
            "topologyKey": ZONE,
            "maxSkew": 1,
            "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"a": "b"}},
        }
        return Scheduler(NODES, [only], {"a": "b"}, "revision")

    full: Placed = ((NODES[0], "1"),)
    assert placed_by("DoNotSchedule").choices("1", full) == [NODES[2]]
    on_one = Scheduler(NODES[:2], placed_by("DoNotSchedule").constraints, {"a": "b"}, "revision")
    assert on_one.choices("1", full) == NODES[:2]  # a single zone is as even as can be
    assert placed_by("ScheduleAnyway").choices("1", full) == [NODES[2]]


@pytest.mark.parametrize("name", PRODUCTION)
def test_no_two_instances_of_the_database_share_a_host_while_another_has_none(name: str) -> None:
    spec = overlay(name).by_name("Cluster")["waymesh-database"]["spec"]
    # The operator's labels, whatever the pod's number.
    labels = {"cnpg.io/cluster": "waymesh-database", "cnpg.io/podRole": "instance"}
    it = Scheduler(NODES, spec["topologySpreadConstraints"], labels, "cnpg.io/instanceName")

    assert crowded(it.started(spec["instances"])) == []
