"""`waymesh keys`: the gateway keeps the keys, so its own process does the work."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from services.cli import environment
from services.cli.child import service_command
from services.cli.numbers import Number


@click.group("keys")
def command() -> None:
    """Add, list, change, rotate and revoke API keys, while the mesh runs and without a dropped request.

    The keys are those of the mesh on the data folder, or of the database that DATABASE_URL names.
    """


def _limits(*, rate: str, burst: str, under_way: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of what a key may do, each with what holds without it."""

    def added(function: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option("--expires", help="When it ends: in 24h or 30d, at a moment, or never."),
            click.option(
                "--under-way",
                type=click.IntRange(1),
                help=f"Requests under way at a time; {under_way} without.",
            ),
            click.option("--burst", type=click.IntRange(1), help=f"Requests at once; {burst} without."),
            click.option("--rate", type=Number(0, min_open=True), help=f"Requests a second; {rate} without."),
            click.option(
                "--scope",
                "scopes",
                multiple=True,
                help="A task it may be used for, a pattern such as get_*, or admin; give it again for more.",
            ),
        ):
            function = option(function)
        return function

    return added


@command.command("add")
@click.argument("name")
@_limits(rate="WAYMESH_RATE_PER_S", burst="WAYMESH_RATE_BURST", under_way="any number")
@click.option("--tenant", help="Whose data it works with, for good; 'default' without.")
def add(name: str, tenant: str | None, **limits: Any) -> None:
    """Make a key for NAME. It is printed once; only a hash of it is kept.

    Without --scope it may be used for everything but what is for operators.
    """
    more = [] if tenant is None else ["--tenant", tenant]
    hand_over(["keys", "add", *more, *_told(**limits), "--", name])


@command.command("list", short_help="Show all keys, never a key itself.")
def list_() -> None:
    """Show all keys by id and name, with tenant, scopes and limits; never a key itself."""
    hand_over(["keys", "list"])


@command.command("scopes", short_help="Show what a key can be used for.")
def scopes_() -> None:
    """Show what a key can be used for: each task, and each stream of gRPC."""
    hand_over(["keys", "scopes"])


@command.command("change")
@click.argument("key", metavar="ID|NAME")
@_limits(rate="as it is", burst="as it is", under_way="as it is")
def change(key: str, **limits: Any) -> None:
    """Give a key other scopes, limits, or another end.

    What is not named stays, and so does its tenant. Scopes that are named replace those it has.
    """
    hand_over(["keys", "change", *_told(**limits), "--", key])


@command.command("rotate", short_help="Make a successor, and let the old key end.")
@click.argument("key", metavar="ID|NAME")
@click.option("--overlap", default="24h", show_default=True, help="How long the old key stays valid.")
@click.option("--expires", help="When the successor ends; after as long as the old key's without.")
def rotate(key: str, overlap: str, expires: str | None) -> None:
    """Make a successor with the same tenant, scopes and limits, and let the old key end after --overlap."""
    more = [] if expires is None else ["--expires", expires]
    hand_over(["keys", "rotate", "--overlap", overlap, *more, "--", key])


@command.command("revoke")
@click.argument("key", metavar="ID|NAME")
def revoke(key: str) -> None:
    """Refuse a key from now on, for good. ID and NAME are as `waymesh keys list` shows them."""
    hand_over(["keys", "revoke", "--", key])


def _told(
    scopes: tuple[str, ...], rate: float | None, burst: int | None, under_way: int | None, expires: str | None
) -> list[str]:
    given = {"--rate": rate, "--burst": burst, "--under-way": under_way, "--expires": expires}
    words = [word for scope in scopes for word in ("--scope", scope)]
    return words + [word for name, value in given.items() if value is not None for word in (name, str(value))]


def hand_over(arguments: list[str]) -> NoReturn:
    """Lets the gateway's own program do it."""
    environ = {**os.environ, "WAYMESH_DATA_DIR": str(environment.data_dir())}
    sys.stdout.flush()
    program = service_command("gateway")
    os.execve(program[0], [*program, *arguments], environ)
