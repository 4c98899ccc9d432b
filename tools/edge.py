"""Other forms of deploy/envoy/edge.yaml: the same edge for other addresses, with TLS or without.

    python -m tools.edge --laptop > deploy/envoy/laptop.yaml
    python -m tools.edge --plain --host 127.0.0.1 --at gateway=127.0.0.1:8000 --at eta=127.0.0.1:50051
    python -m tools.edge --certificates tls --ids spiffe://waymesh/ --at gateway=localhost:8000

An address may be given more than once for a name: each is a replica.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

ENVOY: Final = Path(__file__).resolve().parents[1] / "deploy" / "envoy"
EDGE: Final = ENVOY / "edge.yaml"
LAPTOP: Final = ENVOY / "laptop.yaml"

# Where the files of edge.yaml lie in a container.
_SDS: Final = "/etc/envoy/sds"
_PUBLIC_TLS: Final = "/etc/waymesh/public-tls"
_MESH_TLS: Final = "/etc/waymesh/tls"
# What the names of the mesh begin with there.
_IDS: Final = "spiffe://cluster.local/ns/waymesh/sa/"
_PLAIN_PORTS: Final = {"public": 8080, "internal": 9090}
_LAPTOP: Final = """\
# Made of edge.yaml by `python -m tools.edge --laptop`: the same without TLS, on ports 8080 and 9090, for a
# laptop where nothing has a certificate. Change that file, then make this one again; a test compares them.
"""

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Edge:
    """What is different from edge.yaml.

    `ports` by listener, and `admin`; `addresses` by cluster, each host:port a replica. `tls` is whether
    clients speak it, `mesh_tls` whether services do. `sds` is the folder of its files, `ids` what names of
    the mesh begin with. `origins` may call from browsers.
    """

    ports: Mapping[str, int] = field(default_factory=dict)
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    host: str = ""
    tls: bool = True
    mesh_tls: bool = True
    sds: Path | None = None
    ids: str = _IDS
    origins: Sequence[str] = ()

    def configuration(self) -> Config:
        """The whole of it."""
        text = EDGE.read_text().replace(_IDS, self.ids).replace(_in_regex(_IDS), _in_regex(self.ids))
        config: Config = yaml.safe_load(text)
        self._admin(config["admin"])
        for listener in config["static_resources"]["listeners"]:
            self._listener(listener)
        for cluster in config["static_resources"]["clusters"]:
            self._cluster(cluster, config["admin"])
        return config

    def text(self) -> str:
        """The same as YAML that Envoy reads."""
        return yaml.dump(self.configuration(), Dumper=_Plain, sort_keys=False, width=120)

    def _admin(self, admin: Config) -> None:
        if "admin" in self.ports:
            _place(admin["address"], port=self.ports["admin"])

    def _listener(self, listener: Config) -> None:
        name = listener["name"]
        port = self.ports.get(name)
        if port is None and not self.tls:
            port = _PLAIN_PORTS.get(name)
        _place(listener["address"], self.host or None, port)
        for chain in listener["filter_chains"]:
            if not self.tls:
                chain.pop("transport_socket", None)
                chain.pop("transport_socket_connect_timeout", None)
            for policy in _found(chain, "allow_origin_string_match"):
                policy["allow_origin_string_match"] = [{"exact": origin} for origin in self.origins]
        self._files(listener)

    def _cluster(self, cluster: Config, admin: Config) -> None:
        if not self.mesh_tls:
            cluster.pop("transport_socket", None)
        if cluster["name"] == "self":
            _place(
                cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"],
                port=admin["address"]["socket_address"]["port_value"],
            )
        given = self.addresses.get(cluster["name"])
        if given is not None:
            endpoints = [{"endpoint": {"address": _address(each)}} for each in given]
            cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
        self._files(cluster)

    def _files(self, part: Config) -> None:
        if self.sds is not None:
            for source in _found(part, "path_config_source"):
                path = source["path_config_source"]["path"]
                source["path_config_source"]["path"] = path.replace(_SDS, str(self.sds))


def write_sds(folder: Path, *, public: Path, mesh: Path) -> None:
    """The files that name certificates, for folders of certificates other than those of a container."""
    folder.mkdir(exist_ok=True)
    for source in (ENVOY / "sds").glob("*.yaml"):
        text = source.read_text().replace(_PUBLIC_TLS, str(public)).replace(_MESH_TLS, str(mesh))
        (folder / source.name).write_text(text)


def laptop() -> str:
    """What laptop.yaml holds."""
    return _LAPTOP + Edge(tls=False, mesh_tls=False).text()


def _in_regex(ids: str) -> str:
    return ids.replace(".", r"\.")


class _Plain(yaml.SafeDumper):
    """Without anchors: each part stands where it counts."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _place(address: Config, host: str | None = None, port: int | None = None) -> None:
    socket = address["socket_address"]
    if host is not None:
        socket["address"] = host
    if port is not None:
        socket["port_value"] = port


def _address(text: str) -> Config:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{text!r} is not host:port")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _found(part: Any, key: str) -> Iterator[Config]:
    """Every mapping in it that has the key."""
    if isinstance(part, dict):
        if key in part:
            yield part
        for value in part.values():
            yield from _found(value, key)
    elif isinstance(part, list):
        for value in part:
            yield from _found(value, key)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.edge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--laptop", action="store_true", help="what deploy/envoy/laptop.yaml holds")
    parser.add_argument("--plain", action="store_true", help="no TLS, to clients and to services")
    parser.add_argument("--plain-services", action="store_true", help="no TLS to services")
    parser.add_argument(
        "--certificates",
        type=Path,
        metavar="FOLDER",
        help="certificates are in FOLDER/edge; FOLDER/sds, which names them, is written",
    )
    parser.add_argument("--ids", default=_IDS, help=f"what names of the mesh begin with, {_IDS} by default")
    parser.add_argument("--host", default="", help="address to listen on")
    parser.add_argument("--port", type=_pair, action="append", default=[], metavar="LISTENER=PORT")
    parser.add_argument("--at", type=_pair, action="append", default=[], metavar="CLUSTER=HOST:PORT")
    parser.add_argument("--origin", action="append", default=[], help="a page's origin that may call")
    arguments = parser.parse_args()
    if arguments.laptop:
        sys.stdout.write(laptop())
        return 0
    addresses: dict[str, list[str]] = {}
    for name, address in arguments.at:
        addresses.setdefault(name, []).append(address)
    sds: Path | None = None
    if arguments.certificates is not None:
        held = (arguments.certificates / "edge").resolve()
        if not held.is_dir():
            parser.error(f"--certificates: {held} is no folder")
        sds = held.with_name("sds")
        write_sds(sds, public=held, mesh=held)
    edge = Edge(
        ports={name: int(port) for name, port in arguments.port},
        addresses=addresses,
        host=arguments.host,
        tls=not arguments.plain,
        mesh_tls=not (arguments.plain or arguments.plain_services),
        sds=sds,
        ids=arguments.ids,
        origins=arguments.origin,
    )
    sys.stdout.write(edge.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
