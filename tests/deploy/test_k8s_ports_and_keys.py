"""Each port leads to the listener that is meant, and each key of a Secret is one that somebody puts there."""

from collections.abc import Iterator, Mapping
from typing import Final

import pytest
import yaml
from manifests import SERVICES, Overlay, overlay, parts

from tools.k8s.render import OVERLAYS, ROOT

LISTENERS: Final = yaml.safe_load((ROOT / "deploy/envoy/edge.yaml").read_text())["static_resources"][
    "listeners"
]
TYPED: Final = frozenset({*SERVICES} - {"gateway"})
OF_A_CERTIFICATE: Final = frozenset({"tls.crt", "tls.key", "ca.crt"})
# CloudNativePG's, of what it makes for the owner of the database and for its clients.
OF_THE_DATABASE: Final[Mapping[str, frozenset[str]]] = {
    "waymesh-database-app": frozenset({"username", "password", "dbname", "host", "port", "uri"}),
    "waymesh-database-ca": frozenset({"ca.crt"}),
}
PRODUCTION: Final = ("production", "production-kafka")


@pytest.fixture(params=OVERLAYS)
def rendering(request: pytest.FixtureRequest) -> Overlay:
    return overlay(request.param)


def listening(port: int) -> frozenset[str]:
    """To which services the edge passes on what comes in at a port of its container."""
    (listener,) = (each for each in LISTENERS if each["address"]["socket_address"]["port_value"] == port)
    routes = (each["route"] for each in parts(listener) if isinstance(each.get("route"), dict))
    return frozenset(each["cluster"] for each in routes) - {"self"}


def leads_to(rendering: Overlay, service: str, port: int) -> int:
    """The container's port behind one of a Service."""
    spec = rendering.by_name("Service")[service]["spec"]
    (target,) = (each["targetPort"] for each in spec["ports"] if each["port"] == port)
    (workload,) = rendering.selected({"matchLabels": spec["selector"]})
    return workload.port(target)


def test_the_edge_offers_the_gateway_at_443_and_typed_services_at_9443(rendering: Overlay) -> None:
    ports = [each["port"] for each in rendering.by_name("Service")["edge"]["spec"]["ports"]]
    offered = {port: listening(leads_to(rendering, "edge", port)) for port in ports}

    assert offered == {443: {"gateway"}, 9443: TYPED}


def test_a_headless_service_has_the_port_of_its_pods(rendering: Overlay) -> None:
    """Its name stands for their addresses: who asks for another port is led nowhere."""
    for service in rendering.of_kind("Service"):
        if service["spec"].get("clusterIP") == "None":
            name = service["metadata"]["name"]
            for each in service["spec"]["ports"]:
                assert leads_to(rendering, name, each["port"]) == each["port"], name


@pytest.mark.parametrize("name", PRODUCTION)
def test_what_comes_from_outside_comes_to_the_public_listener(name: str) -> None:
    found = overlay(name)
    backends = [
        (each["name"], each["port"])
        for route in found.documents
        if route["kind"].endswith("Route")
        for part in parts(route["spec"])
        for each in part.get("backendRefs", [])
    ]

    assert [listening(leads_to(found, *each)) for each in backends] == [{"gateway"}]


@pytest.mark.parametrize("name", PRODUCTION)
def test_tls_ends_at_the_edge(name: str) -> None:
    """Who ended it before would cut long answers off, and make one connection of many clients."""
    found = overlay(name)
    (route,) = (each for each in found.documents if each["kind"].endswith("Route"))
    (listener,) = found.by_name("Gateway")["waymesh"]["spec"]["listeners"]

    assert route["kind"] == "TLSRoute"
    assert (listener["protocol"], listener["tls"]) == ("TLS", {"mode": "Passthrough"})
    assert route["spec"]["parentRefs"] == [{"name": "waymesh", "sectionName": listener["name"]}]
    # Asked for by that name, the edge shows a certificate of that name.
    certificate = found.by_name("Certificate")["edge-public"]["spec"]
    assert route["spec"]["hostnames"] == [listener["hostname"]] == certificate["dnsNames"]
    assert certificate["issuerRef"] != found.by_name("Certificate")["edge"]["spec"]["issuerRef"]


def fetched(rendering: Overlay) -> dict[str, frozenset[str]]:
    """Secrets that External Secrets makes, with their keys."""
    return {
        each["spec"]["target"]["name"]: frozenset(one["secretKey"] for one in each["spec"]["data"])
        for each in rendering.of_kind("ExternalSecret")
    }


def asked(rendering: Overlay) -> Iterator[tuple[str, str, bool]]:
    """Secret, key of it, and whether it may be missing, wherever somebody names them."""
    for document in rendering.documents:
        for part in parts(document["spec"]) if "spec" in document else ():
            if isinstance(part.get("name"), str) and isinstance(part.get("key"), str):
                yield part["name"], part["key"], part.get("optional", False)
            if "secretName" in part and "items" in part:
                yield from ((part["secretName"], each["key"], False) for each in part["items"])


def test_each_key_that_is_asked_of_a_secret_is_in_it(rendering: Overlay) -> None:
    certificates = {each["spec"]["secretName"] for each in rendering.of_kind("Certificate")}
    made = {**OF_THE_DATABASE, **dict.fromkeys(certificates, OF_A_CERTIFICATE), **fetched(rendering)}
    wanted = set(asked(rendering))

    assert ("waymesh-database-app", "uri", False) in wanted
    for secret, key, may_be_missing in wanted:
        if secret in made:
            assert key in made[secret], f"{secret} has no {key}"
        else:
            # On a laptop nobody makes it; in production everything there is has to come from somewhere.
            assert may_be_missing, secret
            assert rendering.name not in PRODUCTION, secret


@pytest.mark.parametrize("name", PRODUCTION)
def test_each_key_that_is_fetched_is_asked_for_and_lies_in_the_store_by_its_name(name: str) -> None:
    found = overlay(name)
    stored = {
        (each["spec"]["target"]["name"], one["secretKey"]): one["remoteRef"]
        for each in found.of_kind("ExternalSecret")
        for one in each["spec"]["data"]
    }
    readme = (ROOT / "deploy/k8s/README.md").read_text()

    assert set(stored) <= {(secret, key) for secret, key, _ in asked(found)}
    for (_, key), remote in stored.items():
        assert remote["property"] == key
        assert f"`{remote['key']}`" in readme
