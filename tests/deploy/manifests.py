"""What the tests ask of rendered manifests: workloads with their container, environment, ports and labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

from tools.k8s.render import documents

SERVICES: Final = ("agents", "eta", "feedback", "gateway", "route")
JOBS: Final = ("doctor", "migrate", "topics")
POD_KINDS: Final = ("CronJob", "Deployment", "Job", "StatefulSet")
FULLEST: Final = "production-kafka"
"""The overlay with everything in it."""


@dataclass(frozen=True)
class Workload:
    """Something that makes pods of one container, and the overlay it stands in."""

    document: dict[str, Any]
    overlay: "Overlay"

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def labels(self) -> dict[str, str]:
        """Those of its pods."""
        return dict(self._template["metadata"]["labels"])

    @property
    def pod(self) -> dict[str, Any]:
        return dict(self._template["spec"])

    @property
    def _template(self) -> dict[str, Any]:
        spec = self.document["spec"]
        found: dict[str, Any] = spec.get("jobTemplate", {}).get("spec", spec)["template"]
        return found

    @property
    def container(self) -> dict[str, Any]:
        (found,) = self.pod["containers"]
        return dict(found)

    @property
    def ports(self) -> dict[str, int]:
        """Its container's, by name."""
        return {each["name"]: each["containerPort"] for each in self.container.get("ports", [])}

    def port(self, of: object) -> int:
        """Of a probe: by its name or its number."""
        return self.ports[of] if isinstance(of, str) else int(str(of))

    @cached_property
    def environment(self) -> dict[str, str | None]:
        """Variables as the container gets them; None for what a Secret or the pod says."""
        found: dict[str, str | None] = {}
        for source in self.container.get("envFrom", []):
            found |= self.overlay.config(source["configMapRef"]["name"])
        for each in self.container.get("env", []):
            found[each["name"]] = each.get("value")
        return found

    @property
    def certificate(self) -> dict[str, Any]:
        """The spec of the Certificate that it mounts to show to others."""
        (secret,) = (each["secret"]["secretName"] for each in self.pod["volumes"] if each["name"] == "tls")
        specs = [each["spec"] for each in self.overlay.of_kind("Certificate")]
        (found,) = (each for each in specs if each["secretName"] == secret)
        return dict(found)

    @property
    def stop_s(self) -> int:
        """How long a pod may take to end."""
        return int(self.pod["terminationGracePeriodSeconds"])

    @property
    def pre_stop_s(self) -> int:
        return int(self.container["lifecycle"]["preStop"]["sleep"]["seconds"])


class Overlay:
    """One overlay as it is rendered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.documents = documents(name)

    def of_kind(self, *kinds: str) -> Iterator[dict[str, Any]]:
        return (each for each in self.documents if each["kind"] in kinds)

    def by_name(self, kind: str) -> dict[str, dict[str, Any]]:
        return {each["metadata"]["name"]: each for each in self.of_kind(kind)}

    def config(self, name: str) -> dict[str, str | None]:
        """What a ConfigMap holds."""
        return dict(self.by_name("ConfigMap")[name]["data"])

    @cached_property
    def workloads(self) -> dict[str, Workload]:
        """Those of the mesh's own namespace."""
        found = (each for each in self.of_kind(*POD_KINDS) if each["metadata"]["namespace"] == "waymesh")
        return {each["metadata"]["name"]: Workload(each, self) for each in found}

    @cached_property
    def collector(self) -> Workload | None:
        """What takes spans, which lives with others of its kind."""
        found = (
            each for each in self.of_kind(*POD_KINDS) if each["metadata"]["namespace"] == "observability"
        )
        return next((Workload(each, self) for each in found), None)

    def selected(self, selector: Mapping[str, Any]) -> list[Workload]:
        """Whose pods a label selector means."""
        return [each for each in self.workloads.values() if selects(selector, each.labels)]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a selector, in the form with matchLabels and matchExpressions, means these labels."""
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    assert not unknown, unknown
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In", each
        if labels.get(each["key"]) not in each["values"]:
            return False
    return True


def parts(of: object) -> Iterator[dict[str, Any]]:
    """Every mapping in it."""
    if isinstance(of, dict):
        yield of
    inner = of.values() if isinstance(of, dict) else of if isinstance(of, list) else ()
    for each in inner:
        yield from parts(each)


@cache
def overlay(name: str) -> Overlay:
    """Rendered once for all tests, which change nothing in it."""
    return Overlay(name)
