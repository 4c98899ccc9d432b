"""Whether the services are there, are who they should be, and say that they take calls."""

import asyncio
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from services.cli import environment
from services.cli.doctor.finding import Finding, fail, ok, warn
from services.cli.doctor.reach import UnreachableError, addresses, ask, certificate, connect, host_and_port
from services.cli.doctor.scene import Scene
from services.cli.probe import health

if TYPE_CHECKING:
    from services.mesh.tls.identity import SpiffeId

_DAY_S: Final = 86_400
# Below this, whoever renews certificates has had many chances and taken none.
_FEW_DAYS: Final = 7
_HEALTH_S: Final = 4.0
_NOT_LET_IN: Final = "use the certificate of the operator, or name it in WAYMESH_TLS_ALLOWED_PEERS there"
# What the gateway says of a service that it has not called yet, or just calls.
_NO_TROUBLE: Final = frozenset({"ok", "idle", "connecting"})


def variable(service: str) -> str:
    """That says where a service is."""
    return f"WAYMESH_{service.upper()}_TARGET"


async def own_certificate(scene: Scene) -> list[Finding]:
    """What this process shows to others."""
    from services.mesh.tls.callers import OPERATOR

    check = "certificate"
    if scene.tls is None:
        remedy = "set WAYMESH_TLS_CERT_FILE, WAYMESH_TLS_KEY_FILE and WAYMESH_TLS_CA_FILE"
        if scene.settings.allow_plaintext:
            return [warn(check, "none: WAYMESH_ALLOW_PLAINTEXT lets services speak in plain text", remedy)]
        return [ok(check, "none: services speak in plain text, on loopback alone")]
    found = [_ending(check, f"{scene.tls.id}", scene.tls.expires)]
    known = {OPERATOR, *environment.SERVICE_NAMES}
    if scene.tls.id.service not in known:
        words = f"services let {scene.tls.id.service} ask for their health alone"
        found.append(warn(check, words, "use the certificate of the operator, as commands and jobs do"))
    return found


async def service(scene: Scene, name: str) -> list[Finding]:
    """A service that speaks gRPC."""
    target = scene.target(name)
    place = host_and_port(target)
    if place is None:
        return [await _serving(scene, name, target, "")]
    host, port = place
    try:
        found, told = await _reached(name, host, port)
        if scene.tls is not None:
            told.insert(0, await _shows(scene.tls.id, name, host, port, scene.tls.client))
    except UnreachableError as error:
        return [fail(name, f"{target}: {error.words}", _remedy(name, error.kind))]
    of_how_many = "" if len(found) == 1 else f", {len(found)} addresses"
    return [*told, await _serving(scene, name, target, of_how_many)]


async def gateway(scene: Scene) -> list[Finding]:
    """The gateway, by its health page."""
    name = "gateway"
    target = scene.target(name)
    place = host_and_port(target)
    if place is None:
        return [fail(name, f"{variable(name)} is {target}", "name a host and a port")]
    host, port = place
    scheme, context = "http", None
    try:
        _, told = await _reached(name, host, port)
        if scene.tls is not None:
            scheme, context = "https", _for_http(scene)
            told.insert(0, await _shows(scene.tls.id, name, host, port, context))
    except UnreachableError as error:
        return [fail(name, f"{target}: {error.words}", _remedy(name, error.kind))]
    return [*told, await _ready(name, target, f"{scheme}://{_in_url(host)}:{port}/health/ready", context)]


async def _ready(name: str, target: str, url: str, context: ssl.SSLContext | None) -> Finding:
    try:
        answer = await ask(url, context=context)
    except UnreachableError as error:
        # It has just taken a connection, so nothing stands between.
        kind = "hangs" if error.kind == "silent" else error.kind
        return fail(name, f"{target}: {error.words}", _remedy(name, kind))
    said = answer.json if isinstance(answer.json, dict) else {}
    checks = said.get("checks") if isinstance(said.get("checks"), dict) else {}
    if answer.status in (401, 403):
        words = f"{target} does not let this certificate in ({answer.status})"
        return fail(name, words, _NOT_LET_IN)
    if answer.status != 200:
        words = f"{target} answers {answer.status}, {said.get('status', 'without saying why')}"
        return fail(name, words, f"look at the log of {name}: it says what it waits for")
    assert isinstance(checks, dict)
    wrong = [f"{what}: {word}" for what, word in checks.items() if word not in _NO_TROUBLE]
    if wrong:
        words = f"{target} is ready, and cannot use {', '.join(wrong)}"
        return warn(name, words, "see what is said here of those, or ask again: it may have just started")
    return ok(name, f"{target} is ready")


async def _reached(name: str, host: str, port: int) -> tuple[list[str], list[Finding]]:
    """Its addresses, and a warning if some take no connection. UnreachableError if none does."""
    found = await addresses(host, port)
    silent = await _silent(found, port)
    if len(silent) == len(found):
        raise next(iter(silent.values()))
    if not silent:
        return found, []
    address, why = next(iter(silent.items()))
    words = f"{len(silent)} of {len(found)} addresses of {host} do not answer ({address}: {why.words})"
    return found, [warn(name, words, f"look at the pods of {name}: one of them hangs or is cut off")]


async def _silent(found: list[str], port: int) -> dict[str, UnreachableError]:
    """Addresses that take no connection, and why."""
    tried = await asyncio.gather(*(connect(one, port) for one in found), return_exceptions=True)
    return {
        address: result
        for address, result in zip(found, tried, strict=True)
        if isinstance(result, UnreachableError)
    }


async def _shows(own: "SpiffeId", name: str, host: str, port: int, context: ssl.SSLContext) -> Finding:
    from services.mesh.tls import identity

    shown = await certificate(host, port, context)
    who = identity.of_certificate(shown)
    if who is None or who.service != name:
        words = f"{host}:{port} shows a certificate of {who or 'nobody in the mesh'}"
        return fail(name, words, f"correct {variable(name)}, or give that service the certificate of {name}")
    if who.folder != own.folder:
        words = f"{host}:{port} shows {who}, and the certificate here is of another mesh: {own}"
        use = f"use a certificate of {who.folder} here (WAYMESH_TLS_CERT_FILE)"
        return fail(name, words, f"{use}, or correct {variable(name)}")
    return _ending(name, f"shows {who}", _expires(shown))


async def _serving(scene: Scene, name: str, target: str, more: str) -> Finding:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

    from services.mesh import transport
    from services.mesh.tls.live import LiveTls

    channel = transport.channel(target, 4, LiveTls.of(scene.settings))
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=_HEALTH_S
        )
    except grpc.aio.AioRpcError as error:
        return _refused(scene, name, target, error)
    finally:
        await channel.close()
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ok(name, f"{target} is serving{more}")
    missing = await _missing(name, target)
    return fail(
        name, f"{target} is not serving{missing}", f"look at the log of {name}: it names what it lacks"
    )


async def _missing(name: str, target: str) -> str:
    """What its health page says, where that can be seen from here."""
    place = host_and_port(target)
    if place is None:
        return ""
    found = await health(place[0], environment.ports()[environment.service(name).admin])
    return f": {found.detail}" if found.reached and found.detail else ""


def _refused(scene: Scene, name: str, target: str, error: Any) -> Finding:
    code = error.code().name
    if code == "DEADLINE_EXCEEDED":
        words = f"{target} takes connections and does not answer within {_HEALTH_S:g} s"
        return fail(name, words, f"look at {name}: it hangs, or something else listens there")
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
        words = f"{target} does not let this certificate in ({' '.join(str(error.details()).split())})"
        return fail(name, words, _NOT_LET_IN)
    if scene.tls is None:
        hangs = f"if it hangs, restart it; else correct {variable(name)}"
        remedy = f"if {name} speaks TLS, set WAYMESH_TLS_* here too; {hangs}"
    else:
        remedy = f"let {name} trust the authority of this certificate (WAYMESH_TLS_CA_FILE there)"
    return fail(name, f"{target} takes connections and answers no gRPC call ({code})", remedy)


def _remedy(name: str, kind: str) -> str:
    match kind:
        case "name":
            return f"correct {variable(name)}, or create what it names"
        case "refused":
            return f"start {name}, or correct {variable(name)}"
        case "silent":
            return (
                f"let connections through to {name} (network policy, firewall), or correct {variable(name)}"
            )
        case "hangs":
            return f"restart {name} if it hangs, or correct {variable(name)}"
        case "handshake":
            without = f"if {name} speaks no TLS, give it certificates (WAYMESH_TLS_*)"
            return f"restart {name} if it hangs; {without}; else correct {variable(name)}"
        case "certificate":
            return f"give {name} a certificate for that name, of an authority in WAYMESH_TLS_CA_FILE"
        case _:
            return f"give {name} certificates (WAYMESH_TLS_*), or correct {variable(name)}"


def _for_http(scene: Scene) -> ssl.SSLContext:
    """As the context for HTTP/2, without offering that."""
    settings = scene.settings
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert settings.tls_cert_file is not None
    context.load_verify_locations(settings.tls_ca_file)
    context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context


def _expires(shown: dict[str, Any]) -> float:
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _ending(check: str, words: str, expires: float) -> Finding:
    days = (expires - time.time()) / _DAY_S
    until = f"{words}, until {datetime.fromtimestamp(expires, UTC):%Y-%m-%dT%H:%MZ}"
    if days < _FEW_DAYS:
        remedy = (
            "renew it: see why it was not renewed by itself (cert-manager: `kubectl describe certificate`)"
        )
        return warn(check, f"{until}, {max(days, 0):.1f} days", remedy)
    return ok(check, f"{until}, {days:.0f} days")


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
