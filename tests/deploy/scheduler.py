"""Where pods may come to stand: as much of Kubernetes' scheduler as topology spread takes.

A constraint that is a rule (`DoNotSchedule`) leaves out nodes; those that are wishes (`ScheduleAnyway`)
order the rest, with the weights and the rounding of the scheduler's own plugin. Of nodes that it thinks equal
it may take any, and this tells of all of them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from manifests import selects

HOST: Final = "kubernetes.io/hostname"
ZONE: Final = "topology.kubernetes.io/zone"


@dataclass(frozen=True, order=True)
class Node:
    """With room for every pod."""

    name: str
    zone: str

    def domain(self, topology_key: str) -> str:
        return {HOST: self.name, ZONE: self.zone}[topology_key]


Placed = tuple[tuple[Node, str], ...]
"""Where pods of a workload run, and of which revision each is; sorted, so that the same is equal."""


@dataclass(frozen=True)
class Scheduler:
    """Places pods of one workload."""

    nodes: Sequence[Node]
    constraints: Sequence[Mapping[str, Any]]
    labels: Mapping[str, str]
    # What tells pods of one revision from those of another.
    revision_label: str

    def choices(self, revision: str, placed: Placed) -> list[Node]:
        """Where the next pod may go: all that are best; none if it has to wait."""
        mine = self._labels(revision)
        allowed = [
            node for node in self.nodes if all(self._obeys(rule, node, mine, placed) for rule in self._hard)
        ]
        if not allowed:
            return []
        worth = {node: sum(self._score(wish, node, mine, placed) for wish in self._soft) for node in allowed}
        best = min(round(score) for score in worth.values())
        return [node for node in allowed if round(worth[node]) == best]

    @property
    def _hard(self) -> list[Mapping[str, Any]]:
        return [each for each in self.constraints if each["whenUnsatisfiable"] == "DoNotSchedule"]

    @property
    def _soft(self) -> list[Mapping[str, Any]]:
        return [each for each in self.constraints if each["whenUnsatisfiable"] == "ScheduleAnyway"]

    def _obeys(self, rule: Mapping[str, Any], node: Node, mine: Mapping[str, str], placed: Placed) -> bool:
        counts = self._counts(rule, mine, placed)
        return counts[node.domain(rule["topologyKey"])] + 1 - min(counts.values()) <= int(rule["maxSkew"])

    def _score(self, wish: Mapping[str, Any], node: Node, mine: Mapping[str, str], placed: Placed) -> float:
        counts = self._counts(wish, mine, placed)
        weight = math.log(len(counts) + 2)
        return counts[node.domain(wish["topologyKey"])] * weight + int(wish["maxSkew"]) - 1

    def _counts(
        self, constraint: Mapping[str, Any], mine: Mapping[str, str], placed: Placed
    ) -> dict[str, int]:
        """Pods that the constraint means, in each domain that there is."""
        key = constraint["topologyKey"]
        same = {label: mine[label] for label in constraint.get("matchLabelKeys", ()) if label in mine}
        counts = {node.domain(key): 0 for node in self.nodes}
        for node, revision in placed:
            theirs = self._labels(revision)
            # A pod on a node that has gone stands in no domain.
            if (
                node in self.nodes
                and selects(constraint["labelSelector"], theirs)
                and same.items() <= theirs.items()
            ):
                counts[node.domain(key)] += 1
        return counts

    def _labels(self, revision: str) -> dict[str, str]:
        return {**self.labels, self.revision_label: revision}

    def started(self, replicas: int, revision: str = "1", beside: Placed = ()) -> set[Placed]:
        """All that may come of the start of so many, one after the other."""
        found = {beside}
        for _ in range(replicas):
            found = {after for before in found for after in self._one_more(revision, before)}
        return found

    def rolled(self, running: Iterable[Placed], *, surge: bool) -> set[Placed]:
        """All that may come of a rollout, pod by pod: with `surge` a new one comes before an old one goes."""
        found = set(running)
        for _ in range(max(map(len, found))):
            if surge:
                found = {
                    after for one in found for more in self._one_more("2", one) for after in _one_less(more)
                }
            else:
                found = {
                    after for one in found for less in _one_less(one) for after in self._one_more("2", less)
                }
        return found

    def without(self, node: Node, running: Iterable[Placed]) -> set[Placed]:
        """All that may come of the loss of a node: its pods are started on others."""
        left = Scheduler(
            [each for each in self.nodes if each != node], self.constraints, self.labels, self.revision_label
        )
        found = set()
        for placed in running:
            stay = tuple(each for each in placed if each[0] != node)
            found |= left.started(len(placed) - len(stay), "1", stay)
        return found

    def _one_more(self, revision: str, placed: Placed) -> Iterator[Placed]:
        choices = self.choices(revision, placed)
        if not choices:
            yield placed  # it waits, and is not there
        for node in choices:
            yield tuple(sorted((*placed, (node, revision))))


def _one_less(placed: Placed) -> Iterator[Placed]:
    """Whichever of the old ones ends."""
    for n, (_, revision) in enumerate(placed):
        if revision == "1":
            yield (*placed[:n], *placed[n + 1 :])
