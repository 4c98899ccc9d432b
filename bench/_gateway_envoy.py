"""Peer (a) of bench/gateway.py: Envoy's gRPC-JSON transcoder before eta's contract, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from waymesh.eta.v1 import eta_service_pb2

from bench._servers import program

RPC = "/waymesh.eta.v1.EtaService/ReportGps"
"""Where it answers what `_fixes.Bodies.transcoder` holds."""


def command(folder: Path, port: int, upstream: int) -> list[str]:
    """Starts it with one worker; its configuration lies in `folder`."""
    config = folder / "envoy.json"
    config.write_text(json.dumps(_config(_descriptors(folder), port, upstream)))
    return [
        *(program("envoy"), "-c", str(config), "--concurrency", "1"),
        *("--log-level", "warning", "--use-dynamic-base-id"),
    ]


def _descriptors(folder: Path) -> Path:
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in seen:
            seen.add(file.name)
            for dependency in file.dependencies:
                add(dependency)
            file.CopyToProto(files.file.add())

    add(eta_service_pb2.DESCRIPTOR)
    path = folder / "descriptors.binpb"
    path.write_bytes(files.SerializeToString())
    return path


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    """An extension's configuration as Envoy wants it."""
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def _config(descriptors: Path, port: int, upstream: int) -> dict[str, Any]:
    transcoder = {
        "name": "envoy.filters.http.grpc_json_transcoder",
        "typed_config": _typed(
            "filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
            proto_descriptor=str(descriptors),
            services=["waymesh.eta.v1.EtaService"],
            auto_mapping=True,
            print_options={"preserve_proto_field_names": True, "always_print_primitive_fields": True},
        ),
    }
    router = {"name": "envoy.filters.http.router", "typed_config": _typed("filters.http.router.v3.Router")}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "eta", "timeout": "10s"}}
    manager = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[transcoder, router],
    )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}
    options = _typed(
        "upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
    )
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    cluster = {
        "name": "eta",
        "type": "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {"cluster_name": "eta", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
    listener = {"name": "http", "address": address, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
