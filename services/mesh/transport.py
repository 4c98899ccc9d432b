"""Options of channels and servers: where two of them depend on each other, both stand here.

Meaning of each: grpc_types.h / channel_arg_names.h of gRPC core.
"""

import ipaddress
import json
from typing import TYPE_CHECKING, Final

import grpc

if TYPE_CHECKING:
    from services.mesh.tls.live import LiveTls

Options = list[tuple[str, str | int]]

_MIB: Final = 1 << 20
# A client that pings more often than the server permits is sent away (GOAWAY too_many_pings).
CLIENT_KEEPALIVE_MS: Final = 20_000
SERVER_MIN_PING_INTERVAL_MS: Final = 10_000
_KEEPALIVE_TIMEOUT_MS: Final = 10_000
# Room for a status with its details besides what else travels in metadata.
_METADATA_BYTES: Final = 32 * 1024
# Who has connected and does not get on with the handshake of TLS is hung up on.
_HANDSHAKE_MS: Final = 10_000
# Connections end now and then, so that clients see servers that have come since; calls under way may finish.
MAX_CONNECTION_AGE_MS: Final = 600_000
_MAX_CONNECTION_AGE_GRACE_MS: Final = 60_000
# A target that was restarted is found again within two seconds.
RECONNECT_MS: Final = (100, 500, 2_000)
# A handshake of TLS takes turns of both ends, which may be busy: an attempt gets this long at least.
TLS_ATTEMPT_MS: Final = 2_000
_RESOLVE_AGAIN_MS: Final = 5_000

# Never a `timeout` here: gRPC ends such calls at once (the deadline link does it). Never a retryPolicy:
# there is one layer of retries, ours.
SERVICE_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def server_options(max_message_mib: int, max_connection_age_ms: int = MAX_CONNECTION_AGE_MS) -> Options:
    """Options of a server. Its port can be shared with the process that will take over from it."""
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", max_message_mib * _MIB),
        ("grpc.max_send_message_length", max_message_mib * _MIB),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * _METADATA_BYTES),
        ("grpc.http2.min_ping_interval_without_data_ms", SERVER_MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", CLIENT_KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_age_ms", max_connection_age_ms),
        ("grpc.max_connection_age_grace_ms", _MAX_CONNECTION_AGE_GRACE_MS),
    ]


def client_options(max_message_mib: int, *, tls: bool = False) -> Options:
    """Options of a channel."""
    initial_ms, min_ms, max_ms = RECONNECT_MS
    if tls:
        min_ms = TLS_ATTEMPT_MS
    return [
        ("grpc.service_config", SERVICE_CONFIG),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", max_message_mib * _MIB),
        ("grpc.max_send_message_length", max_message_mib * _MIB),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * _METADATA_BYTES),
        ("grpc.keepalive_time_ms", CLIENT_KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", initial_ms),
        ("grpc.min_reconnect_backoff_ms", min_ms),
        ("grpc.max_reconnect_backoff_ms", max_ms),
        ("grpc.dns_min_time_between_resolutions_ms", _RESOLVE_AGAIN_MS),
    ]


def channel(target: str, max_message_mib: int, tls: "LiveTls | None" = None) -> grpc.aio.Channel:
    """A channel without links, with the certificates that are current now."""
    options = client_options(max_message_mib, tls=tls is not None)
    if tls is None:
        return grpc.aio.insecure_channel(resolvable(target), options=options)
    return grpc.aio.secure_channel(resolvable(target), tls.channel_credentials(), options=options)


def resolvable(target: str) -> str:
    """The target in a form in which a name stands for all its addresses: `eta:50051` → `dns:///eta:50051`."""
    if "://" in target or target.startswith(("unix:", "ipv4:", "ipv6:", "dns:")):
        return target
    host = target.rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return f"dns:///{target}"
    return target
