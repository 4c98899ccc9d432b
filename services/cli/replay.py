"""`waymesh replay`."""

import asyncio
import secrets
import time
from pathlib import Path

import click

from services.cli.errors import CliError
from services.cli.numbers import Number


@click.group("replay")
def command() -> None:
    """Send recorded data through a running mesh."""


@command.command("gps")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--speed",
    type=Number(min=0),
    default=0.0,
    show_default=True,
    help="Recorded seconds per second; 0 is as fast as the mesh takes it.",
)
@click.option(
    "--couriers",
    type=click.IntRange(1, 10_000),
    default=128,
    show_default=True,
    help="Traces that run side by side; as one ends, the next begins.",
)
@click.option(
    "--inject-duplicates",
    "duplicates",
    type=Number(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Share of the fixes to send twice.",
)
@click.option(
    "--inject-disorder",
    "disorder",
    type=Number(0, 0.3),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Share of the fixes to send behind their successor.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Which fixes are injected."
)
@click.option(
    "--run", "run_id", help="Part of every id; the same again changes nothing.  [default: a new one]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line instead of tables.")
def gps(
    file: Path,
    speed: float,
    couriers: int,
    duplicates: float,
    disorder: float,
    seed: int,
    run_id: str | None,
    as_json: bool,
) -> None:
    """Send recorded GPS fixes through a running mesh and compare its arrival times with what happened.

    FILE is csv or csv.gz with the columns lat, lng, datetime (UTC) and uid. A person's fixes are split where
    more than five minutes passed. Each trace of 60 fixes or more is one courier with one order: pickup at its
    first fix, dropoff at its last. Shorter pieces are taken in but not scored.

    Ends when the mesh has counted everything sent; says how many fixes a second went through from end to end,
    whether the injected duplicates and late fixes were all found, and how far the predicted arrival times
    were off. Fails if the counts differ.

    \b
    waymesh replay gps fixes.csv.gz
    waymesh replay gps fixes.csv.gz --inject-duplicates 0.01 --inject-disorder 0.01
    waymesh replay gps fixes.csv.gz --speed 100 --couriers 20
    """
    # Late: numpy, gRPC and rich would slow down every other command.
    from services.cli.replay_report import Report, tables
    from services.cli.replay_run import run_with_progress
    from services.sim import schedule
    from services.sim.recording import Recording
    from services.sim.replay import ReplayError
    from services.sim.traces import BadTraceError, read_traces

    try:
        traces = read_traces(file)
    except BadTraceError as error:
        raise CliError(str(error)) from error
    plan = schedule.plan(traces, side_by_side=couriers, duplicates=duplicates, disorder=disorder, seed=seed)
    recording = Recording(traces, run_id or new_run_id())
    try:
        outcome = asyncio.run(run_with_progress(recording, plan, speed=speed, quiet=as_json))
    except ReplayError as error:
        raise CliError(str(error)) from error
    report = Report.of(plan, traces, outcome)
    if as_json:
        click.echo(report.to_json())
    else:
        tables(report)
    if not report.exact:
        raise CliError(
            "the mesh counted something else than was sent (or others sent fixes meanwhile): "
            + "; ".join(report.differences)
        )


def new_run_id() -> str:
    """The time, for people, and something random: replays that start in the same second are fleets apart."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
