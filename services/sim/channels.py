"""Channels to a mesh, with the operator's certificate where one is named."""

import os

import grpc

from services.mesh import transport
from services.mesh.settings import MeshSettings, load
from services.mesh.tls.live import LiveTls

_MESSAGE_MIB = 64


def channel(target: str) -> grpc.aio.Channel:
    """Raises SettingsError if the certificate cannot be used."""
    if not os.environ.get("WAYMESH_TLS_CERT_FILE"):
        return grpc.aio.insecure_channel(target)
    return transport.channel(target, _MESSAGE_MIB, LiveTls.of(load(MeshSettings)))
