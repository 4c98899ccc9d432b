"""One look at a Kafka cluster: what it has of our topics, or in one line why it cannot be used.

aiokafka's clients say of a cluster only that they could not bootstrap; here each address is asked by itself.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from services.mesh.events.kafka_client import KafkaOptions

_LOOK_S: Final = 6.0
_ASK_S: Final = 2.0
_WRONG_NAME: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


class ClusterUnusableError(Exception):
    """No broker could be asked. The text is one line: the address and what is wrong there."""

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused
        """Whether somebody is there who does not let us in; else it may be there later by itself."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster says of itself, by its own names."""

    brokers: int
    partitions: Mapping[str, int]
    """How many each topic has; topics that do not exist are left out."""
    leaderless: Sequence[str]
    """Topics of which a partition has nobody who would take an event."""


async def look(options: KafkaOptions, topics: Iterable[str]) -> Cluster:
    """Asks the first broker that answers; creates no topic by asking. ClusterUnusableError within 10 s."""
    addresses = [(host, port) for host, port, _ in collect_hosts(options.bootstrap_servers, randomize=False)]
    asking = [asyncio.create_task(_ask(options, host, port, list(topics))) for host, port in addresses]
    try:
        failures: list[ClusterUnusableError] = []
        for answer in asyncio.as_completed(asking):
            try:
                return await answer
            except ClusterUnusableError as failure:
                failures.append(failure)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    told = next((one for one in failures if one.refused), failures[0])
    others = "" if len(failures) == 1 else f" (none of the {len(failures)} addresses can be used)"
    raise ClusterUnusableError(f"{told}{others}", refused=told.refused)


async def _ask(options: KafkaOptions, host: str, port: int, topics: list[str]) -> Cluster:
    arguments = options.connection()
    del arguments["bootstrap_servers"], arguments["metadata_max_age_ms"]
    try:
        async with asyncio.timeout(_LOOK_S):
            connection = await create_conn(host, port, **arguments)
            try:
                request = MetadataRequest(topics, allow_auto_topic_creation=False)
                answer = (await connection.send(request)).to_object()
            finally:
                with contextlib.suppress(Exception):
                    await connection.close()
    except (OSError, KafkaError, TimeoutError, EOFError, ValueError) as error:
        reason, refused = await _reason(error, options, host, port)
        raise ClusterUnusableError(f"{_address(host, port)} {reason}", refused=refused) from error
    found = {one["topic"]: one["partitions"] for one in answer["topics"] if one["partitions"]}
    return Cluster(
        brokers=len(answer["brokers"]),
        partitions={name: len(partitions) for name, partitions in found.items()},
        leaderless=[
            name for name, partitions in found.items() if any(one["leader"] < 0 for one in partitions)
        ],
    )


async def _reason(error: Exception, options: KafkaOptions, host: str, port: int) -> tuple[str, bool]:
    """What is wrong at an address, as the rest of a sentence, and whether somebody there refuses us."""
    match error:
        case socket.gaierror():
            return "is a name without an address", False
        case ConnectionRefusedError():
            return "refuses connections", False
        case ssl.SSLCertVerificationError():
            if error.verify_code in _WRONG_NAME:
                return "shows a certificate that is for another name", True
            words = f"shows a certificate that is not trusted ({error.verify_message})"
            return f"{words}: KAFKA_SSL_CAFILE is to name the authority that signed it", True
        case UnsupportedSaslMechanismError():
            mechanism = options.login.get("sasl_mechanism")
            return f"takes no login by KAFKA_SASL_MECHANISM={mechanism}", True
        case SaslAuthenticationFailed():
            user = options.login.get("sasl_plain_username")
            words = f"refuses the login of '{user}'"
            return f"{words}: authentication failed with KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD", True
        case IllegalSaslStateError():
            return f"takes no login, but KAFKA_SECURITY_PROTOCOL is {options.security_protocol}", True
        case TimeoutError():
            pass
        case OSError() if error.errno is not None and not isinstance(error, ssl.SSLError | ConnectionError):
            return f"cannot be reached ({(error.strerror or str(error)).lower()})", False
    return await _talk(error, options, host, port)


async def _talk(error: Exception, options: KafkaOptions, host: str, port: int) -> tuple[str, bool]:
    """Of an address that takes connections but does not answer as a broker: what it speaks instead."""
    if "CERTIFICATE_REQUIRED" in str(error):
        return "asks for a certificate of ours: KAFKA_SSL_CERTFILE is to name it", True
    protocol = f"KAFKA_SECURITY_PROTOCOL is {options.security_protocol}"
    if await _refuses(host, port):  # it has gone just now
        return "refuses connections", False
    if await _speaks_http(host, port):
        return "speaks HTTP: it is no Kafka broker", True
    if options.ssl_context is None and await _speaks_tls(host, port):
        return f"speaks TLS, but {protocol}", True
    if isinstance(error, ssl.SSLError):
        return f"speaks no TLS, but {protocol}", True
    if isinstance(error, TimeoutError):
        return f"takes connections but says nothing within {_LOOK_S:g} s", False
    if options.ssl_context is not None and not await _speaks_tls(host, port):
        return f"speaks no TLS, but {protocol}", True
    return f"ends the connection: it is no broker, or wants another way in ({protocol})", False


async def _refuses(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_ASK_S):
            _, writer = await asyncio.open_connection(host, port)
            writer.transport.abort()
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    return False


async def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is said there
    try:
        async with asyncio.timeout(_ASK_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.transport.abort()
    except (OSError, TimeoutError):
        return False
    return True


async def _speaks_http(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_ASK_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"HEAD / HTTP/1.0\r\n\r\n")
                return await reader.readexactly(5) == b"HTTP/"
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, EOFError):
        return False


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
