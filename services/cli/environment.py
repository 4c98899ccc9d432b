"""Where a mesh on this machine keeps its data and listens, and the variables that move it.

Read here without the services' settings classes, so that `up` starts fast and stays small; each service
checks its own variables again.
"""

import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.cli.errors import CliError

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A port and the variable that moves it."""

    name: str
    variable: str
    default: int
    host_variable: str = "WAYMESH_BIND_HOST"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service that `up` runs. `admin` serves /health; the gateway may do so at its public port."""

    name: str
    port: PortSpec
    admin: PortSpec
    others: tuple[PortSpec, ...] = ()
    # How long an old process may go on when a successor has taken over, in seconds.
    handover_s: float = 20.0

    @property
    def ports(self) -> tuple[PortSpec, ...]:
        """Every port it listens on, but for an admin port of the gateway's own."""
        own = (self.port, *self.others)
        return own if self.admin is GATEWAY_ADMIN else (self.port, self.admin, *self.others)


_ADMIN_BASE: Final = 9101
_GATEWAY_PORT: Final = PortSpec("gateway", "PORT", 8000)
GATEWAY_ADMIN: Final = PortSpec("gateway admin", "WAYMESH_GATEWAY_ADMIN_PORT", _ADMIN_BASE + 4)

# In the order of start; stopping goes the other way, so that nobody calls a service that has gone.
SERVICES: Final = (
    ServiceSpec(
        "feedback",
        PortSpec("feedback", "WAYMESH_FEEDBACK_PORT", 50053),
        PortSpec("feedback admin", "WAYMESH_FEEDBACK_ADMIN_PORT", _ADMIN_BASE + 2),
    ),
    ServiceSpec(
        "eta",
        PortSpec("eta", "WAYMESH_ETA_PORT", 50051),
        PortSpec("eta admin", "WAYMESH_ETA_ADMIN_PORT", _ADMIN_BASE),
    ),
    ServiceSpec(
        "route",
        PortSpec("route", "WAYMESH_ROUTE_PORT", 50052),
        PortSpec("route admin", "WAYMESH_ROUTE_ADMIN_PORT", _ADMIN_BASE + 1),
    ),
    ServiceSpec(
        "agents",
        PortSpec("agents", "WAYMESH_AGENTS_PORT", 50054),
        PortSpec("agents admin", "WAYMESH_AGENTS_ADMIN_PORT", _ADMIN_BASE + 3),
        handover_s=80.0,  # a run may take a minute
    ),
    ServiceSpec(
        "gateway",
        _GATEWAY_PORT,
        GATEWAY_ADMIN,
        (
            PortSpec("runtime agent-demo", "WAYMESH_AGENT_DEMO_PORT", 3001, "WAYMESH_RUNTIME_HOST"),
            PortSpec("runtime agent-custom", "WAYMESH_AGENT_CUSTOM_PORT", 3002, "WAYMESH_RUNTIME_HOST"),
        ),
    ),
)
SERVICE_NAMES: Final = tuple(spec.name for spec in SERVICES)


def service(name: str) -> ServiceSpec:
    """The service of that name; KeyError if there is none."""
    return next(spec for spec in SERVICES if spec.name == name)


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """WAYMESH_DATA_DIR, or the same default as the services have: root keeps data outside any home."""
    chosen = environ.get("WAYMESH_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/waymesh")
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "waymesh"


def make_data_dir(folder: Path) -> None:
    """Others may pass through it, since PostgreSQL runs as another user when this one is root.

    Raises CliError if it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            folder.chmod(0o711)
        elif not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise CliError(
            f"the data folder {folder} cannot be used ({error.strerror}): set WAYMESH_DATA_DIR to another"
        ) from error


def bind_host(environ: Mapping[str, str] = os.environ) -> str:
    """Address that the services listen on."""
    return environ.get("WAYMESH_BIND_HOST") or LOOPBACK


def reach_host(host: str) -> str:
    """Address at which a listener on `host` is reached from this machine."""
    return LOOPBACK if host in ("0.0.0.0", "::", "") else host


def ports(environ: Mapping[str, str] = os.environ) -> dict[PortSpec, int]:
    """The port each listener is to have; 0 in a variable means any free one, which is chosen here.

    The gateway's admin port is its public one, unless its variable says otherwise. Raises CliError for a
    value that is no port and for two listeners with the same one.
    """
    chosen: dict[PortSpec, int] = {}
    taken: dict[int, PortSpec] = {}
    base = _number("PROMETHEUS_PORT", environ.get("PROMETHEUS_PORT") or str(_ADMIN_BASE))
    specs = [port for entry in SERVICES for port in entry.ports]
    if environ.get(GATEWAY_ADMIN.variable):
        specs.append(GATEWAY_ADMIN)
    for spec in specs:
        text = environ.get(spec.variable)
        if text:
            port = _number(spec.variable, text)
        elif _ADMIN_BASE <= spec.default < _ADMIN_BASE + 10:
            port = base + spec.default - _ADMIN_BASE if base else 0
        else:
            port = spec.default
        while port == 0 or (port in taken and not text):
            port = free_port()
        if port in taken:
            other = taken[port]
            raise CliError(
                f"{spec.name} and {other.name} both have port {port}: "
                f"set {spec.variable} or {other.variable} to another"
            )
        chosen[spec] = port
        taken[port] = spec
    chosen.setdefault(GATEWAY_ADMIN, chosen[_GATEWAY_PORT])
    return chosen


def with_admin_ports(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a mesh whose every process can be asked for its health without a certificate."""
    made = dict(environ)
    if has_tls(environ) and not environ.get(GATEWAY_ADMIN.variable):
        base = _number("PROMETHEUS_PORT", environ.get("PROMETHEUS_PORT") or str(_ADMIN_BASE))
        made[GATEWAY_ADMIN.variable] = str(base + GATEWAY_ADMIN.default - _ADMIN_BASE if base else 0)
    return made


def has_tls(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether services show certificates."""
    return bool(environ.get("WAYMESH_TLS_CERT_FILE"))


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def check_free(port: int, spec: PortSpec, environ: Mapping[str, str] = os.environ) -> None:
    """Raises CliError if the port cannot be listened on, with why and which variable moves it.

    Bound without SO_REUSEPORT on purpose: with it, two programs would share the port in silence.
    """
    host = environ.get(spec.host_variable) or LOOPBACK
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, UnicodeError) as error:
        raise CliError(_refused(error, host, port, spec)) from error


def _refused(error: OSError | UnicodeError, host: str, port: int, spec: PortSpec) -> str:
    """Why a port could not be bound, and what to do about it."""
    if isinstance(error, PermissionError):
        return f"port {port} ({spec.name}) is not this user's to take: set {spec.variable} to one above 1023"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return (
            f"port {port} ({spec.name}) is in use{_holder(port)}: "
            f"stop what uses it or set {spec.variable} to another port"
        )
    if isinstance(error, socket.gaierror | UnicodeError):
        wrong = "which has no address"
    elif error.errno == errno.EADDRNOTAVAIL:
        wrong = "which is no address of this machine"
    else:
        wrong = f"where this machine cannot listen ({os.strerror(error.errno or 0).lower()})"
    return (
        f"{spec.host_variable} holds '{host[:80]}', {wrong}: "
        f"set it to one of this machine's, {LOOPBACK} for itself alone or 0.0.0.0 for all of them"
    )


def _holder(port: int) -> str:
    """` by name (pid n)` of who listens there, as far as this user may know."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.pid
            if listens and connection.laddr and connection.laddr.port == port:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        pass
    return ""


def _number(variable: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise CliError(f"{variable} holds '{text[:80]}': allowed is an integer from 0 to 65535")
    return int(text)
