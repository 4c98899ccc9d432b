"""`waymesh health`: what a container's health check runs."""

import asyncio
import os

import click

from services.cli import environment
from services.cli.errors import CliError
from services.cli.output import say
from services.cli.probe import health


@click.command("health")
@click.argument("service", type=click.Choice(environment.SERVICE_NAMES), metavar="SERVICE")
def command(service: str) -> None:
    """Ask the SERVICE that runs on this machine, or in this container, whether it takes requests.

    Exit code 1 if not, with what is missing. The port is that of the variables which the service reads.
    """
    spec = environment.service(service)
    host = environment.reach_host(os.environ.get("WAYMESH_ADMIN_HOST") or environment.bind_host())
    own_admin = spec.admin is not environment.GATEWAY_ADMIN or os.environ.get(spec.admin.variable)
    if environment.has_tls() and not own_admin:
        raise CliError(f"with TLS the gateway is asked at its admin port: set {spec.admin.variable}")
    port = environment.ports()[spec.admin]
    found = asyncio.run(health(host, port))
    if not found.ready:
        words = f"is not ready: {found.detail}" if found.reached else found.detail
        raise CliError(f"{service} at {host}:{port} {words}")
    say(f"{service} is ready")
