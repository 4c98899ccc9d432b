"""`waymesh health`: what a container's health check runs."""

import asyncio
import os

import click

from services.cli import environment, state
from services.cli.errors import CliError
from services.cli.output import say
from services.cli.probe import health


@click.command("health")
@click.argument("service", type=click.Choice(environment.SERVICE_NAMES), metavar="SERVICE")
def command(service: str) -> None:
    """Ask the SERVICE that runs on this machine, or in this container, whether it takes requests.

    Exit code 1 if not, with what is missing. The port is that of the variables which the service reads, else
    that of the mesh which `waymesh up` runs on the data folder.
    """
    host, port = _place(environment.service(service))
    found = asyncio.run(health(host, port))
    if not found.ready:
        words = f"is not ready: {found.detail}" if found.reached else found.detail
        raise CliError(f"{service} at {host}:{port} {words}")
    say(f"{service} is ready")


def _place(spec: environment.ServiceSpec) -> tuple[str, int]:
    """Where its health page is: as variables say, else of the mesh on the data folder, else the default."""
    tls_gateway = environment.has_tls() and spec.admin is environment.GATEWAY_ADMIN
    named = _named(spec, tls_gateway)
    data_dir = environment.data_dir()
    mesh = state.load(data_dir) if not named and state.is_running(data_dir) else None
    if mesh is not None and spec.name in mesh.services:
        entry = mesh.services[spec.name]
        return entry.host, entry.admin_port
    if tls_gateway and not named:
        raise CliError(f"with TLS the gateway is asked at its admin port: set {spec.admin.variable}")
    host = environment.reach_host(os.environ.get("WAYMESH_ADMIN_HOST") or environment.bind_host())
    return host, environment.ports()[spec.admin]


def _named(spec: environment.ServiceSpec, tls_gateway: bool) -> bool:
    """Whether a variable says which port its page is at; 0 says any."""
    variables = [spec.admin.variable]
    if spec.admin is not environment.GATEWAY_ADMIN:
        variables.append("PROMETHEUS_PORT")
    elif not tls_gateway:
        variables.append(spec.port.variable)
    return any(os.environ.get(variable, "") not in ("", "0") for variable in variables)
