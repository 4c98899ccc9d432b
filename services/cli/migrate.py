"""`waymesh migrate`."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from services.cli import environment, state
from services.cli.child import service_command
from services.cli.errors import CliError
from services.cli.external_database import ExternalDatabase
from services.cli.output import say
from services.cli.runner import State

# Of a process that has looked and found something missing.
_LACKING: Final = 3
# A schema's own process, in the order of their names; the bus is the mesh's.
_PARTS: Final = ("mesh.events", *sorted(environment.SERVICE_NAMES))


@click.command("migrate")
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 if something is missing.")
def command(check: bool) -> None:
    """Bring the schemas of every service and of the event bus up to date.

    In the database that DATABASE_URL names, or that `waymesh up` runs. Services do this themselves when they
    start; run before them it keeps their starts short, and a migration that fails stops a rollout before it
    has begun. It may be run at any time, more than once and beside services that run or start.

    \b
    waymesh migrate --check || waymesh migrate
    """
    environ = _environ()
    database = ExternalDatabase(environ["DATABASE_URL"], _waiting)
    asyncio.run(database.reach() if check else database.check())
    lacking = _run(environ, ["migrate", "--check"] if check else ["migrate"])
    if lacking:
        raise CliError("the database lacks what is named above: run `waymesh migrate`")


def _environ() -> Mapping[str, str]:
    data_dir = environment.data_dir()
    environ = {**os.environ, "WAYMESH_DATA_DIR": str(data_dir)}
    if not environ.get("DATABASE_URL"):
        if not state.is_running(data_dir):
            raise CliError(
                "there is no database: set DATABASE_URL to a PostgreSQL server, "
                f"or run `waymesh up` on {data_dir} first"
            )
        environ["DATABASE_URL"] = state.running(data_dir).dsn
    return environ


def _waiting(_state: State, words: str) -> None:
    if words.startswith("waiting"):
        say(words, err=True)


def _run(environ: Mapping[str, str], arguments: Sequence[str]) -> bool:
    """Lets each do its own, side by side; whether something is missing. Raises CliError if one fails."""
    sys.stdout.flush()
    processes = {
        part: subprocess.Popen(
            [*service_command(part), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            text=True,
        )
        for part in _PARTS
    }
    lacking, failures = False, []
    for part, process in processes.items():
        said, trouble = process.communicate()
        if said.strip():
            say(said.rstrip())
        if process.returncode == _LACKING:
            lacking = True
        elif process.returncode != 0:
            last = (trouble.strip() or f"exit code {process.returncode}").splitlines()[-1]
            failures.append(f"{part.rpartition('.')[2]}: {last}")
    if failures:
        more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise CliError(f"{failures[0]}{more}")
    return lacking
