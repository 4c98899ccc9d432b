"""`waymesh keys`: the gateway keeps the keys, so its own process does the work."""

import os
import sys
from typing import NoReturn

import click

from services.cli import environment
from services.cli.child import service_command
from services.cli.numbers import Number


@click.group("keys")
def command() -> None:
    """Add, list and revoke API keys, while the mesh runs and without a dropped request.

    The keys are those of the mesh on the data folder, or of the database that DATABASE_URL names.
    """


@command.command("add")
@click.argument("name")
@click.option("--rate", type=Number(0, min_open=True), help="Requests a second; WAYMESH_RATE_PER_S without.")
@click.option("--burst", type=click.IntRange(1), help="Requests at once; WAYMESH_RATE_BURST without.")
@click.option("--tenant", help="Whose agents and runs it works with; 'default' without.")
def add(name: str, rate: float | None, burst: int | None, tenant: str | None) -> None:
    """Make a key for NAME. It is printed once; only a hash of it is kept."""
    arguments = ["add", name]
    if tenant is not None:
        arguments += ["--tenant", tenant]
    if rate is not None:
        arguments += ["--rate", str(rate)]
    if burst is not None:
        arguments += ["--burst", str(burst)]
    _hand_over(arguments)


@command.command("list")
def list_() -> None:
    """Show all keys by id and name, with tenant and limits; never a key itself."""
    _hand_over(["list"])


@command.command("revoke")
@click.argument("key", metavar="ID|NAME")
def revoke(key: str) -> None:
    """Refuse a key from now on, for good. ID and NAME are as `waymesh keys list` shows them."""
    _hand_over(["revoke", key])


def _hand_over(arguments: list[str]) -> NoReturn:
    environ = {**os.environ, "WAYMESH_DATA_DIR": str(environment.data_dir())}
    sys.stdout.flush()
    program = service_command("gateway")
    os.execve(program[0], [*program, "keys", *arguments], environ)
