"""`waymesh restart`."""

import click

from services.cli import environment
from services.cli.control import ask


@click.command("restart")
@click.argument("service", type=click.Choice(environment.SERVICE_NAMES), metavar="SERVICE")
def command(service: str) -> None:
    """Restart SERVICE of a running mesh without a failed request.

    Starts a successor on the same ports, waits until it is healthy, then drains and ends the old process. If
    the successor does not get healthy, the old process goes on.
    """
    ask(environment.data_dir(), {"command": "restart", "service": service}, progress=click.echo)
    click.echo(f"{service} restarted")
