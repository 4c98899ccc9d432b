"""What network policies let through, as networking.k8s.io/v1 says: both ends have to let a connection."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from manifests import Overlay, selects

OURS: Final = "waymesh"


@dataclass(frozen=True)
class Place:
    """Where a connection begins or ends: a pod with labels in a namespace, or an address of no pod."""

    name: str
    namespace: str = OURS
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None


class Policies:
    """Those of one namespace of an overlay."""

    def __init__(self, overlay: Overlay, namespace: str = OURS) -> None:
        self._namespace = namespace
        self._all = [
            each["spec"]
            for each in overlay.of_kind("NetworkPolicy")
            if each["metadata"]["namespace"] == namespace
        ]

    def ports(self, source: Place, target: Place, asked: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Which of the asked (protocol, port) can be reached."""
        return {
            each
            for each in asked
            if self._lets("Egress", source, target, each) and self._lets("Ingress", target, source, each)
        }

    def _lets(self, way: str, subject: Place, other: Place, port: tuple[str, int]) -> bool:
        if subject.namespace != self._namespace or subject.address is not None:
            return True  # others' policies are others' business
        concerned = [
            spec
            for spec in self._all
            if way in spec["policyTypes"] and selects(spec["podSelector"], subject.labels)
        ]
        if not concerned:
            return True
        side = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}[way]
        return any(
            _port_fits(rule, port) and _peer_fits(rule.get(side[1]), subject, other)
            for spec in concerned
            for rule in spec.get(side[0]) or []
        )


def _port_fits(rule: Mapping[str, Any], port: tuple[str, int]) -> bool:
    ports = rule.get("ports")
    if not ports:
        return True
    return any((each.get("protocol", "TCP"), each["port"]) == port for each in ports)


def _peer_fits(peers: Sequence[Mapping[str, Any]] | None, subject: Place, other: Place) -> bool:
    return not peers or any(_is_peer(each, subject, other) for each in peers)


def _is_peer(peer: Mapping[str, Any], subject: Place, other: Place) -> bool:
    if "ipBlock" in peer:
        assert set(peer) == {"ipBlock"}
        if other.address is None:
            return False  # pods are addressed by what they are
        address = ipaddress.ip_address(other.address)
        block = peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(each) for each in block.get("except", [])
        )
    if other.address is not None:
        return False
    if "namespaceSelector" in peer:
        named = {"kubernetes.io/metadata.name": other.namespace, **_NAMESPACE_LABELS.get(other.namespace, {})}
        if not selects(peer["namespaceSelector"], named):
            return False
    elif other.namespace != subject.namespace:
        return False
    return "podSelector" not in peer or selects(peer["podSelector"], other.labels)


CALLERS: Final = "shop"
"""A namespace whose pods may call typed services by the edge."""
_NAMESPACE_LABELS: Final = {CALLERS: {"waymesh-callers": "true"}}
