"""Runs a replay beside a progress bar."""

import asyncio
import signal
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.cli import environment, state
from services.cli.cpu import cpu_seconds
from services.cli.errors import CutShortError
from services.cli.targets import target
from services.sim.accuracy import Accuracy
from services.sim.recording import Recording
from services.sim.replay import Replay, ReplayResult
from services.sim.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay came to."""

    result: ReplayResult
    accuracy: Accuracy
    cpu_s: dict[str, float]
    """CPU seconds of each process during the replay; empty if the mesh is not the one on the data folder."""


async def run_with_progress(recording: Recording, plan: Schedule, *, speed: float, quiet: bool) -> Outcome:
    """Raises ReplayError, and CutShortError when it is cancelled, as by Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    # asyncio.run hears SIGINT only where it is not ignored, which it is in whatever a script starts with `&`.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    replay = Replay(recording, plan, speed=speed, eta_target=target("eta"), route_target=target("route"))
    data_dir = environment.data_dir()
    mesh = state.load(data_dir) if state.is_running(data_dir) else None
    before = cpu_seconds(mesh) if mesh is not None else {}
    with Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>8}/s"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
    ) as bars:
        durable = bars.add_task("durable", total=len(plan), rate="-")
        processed = bars.add_task("processed", total=len(plan), rate="-")

        reached = (0, 0)

        def advance(accepted: int, counted: int) -> None:
            nonlocal reached
            reached = accepted, counted
            for task, done in ((durable, accepted), (processed, counted)):
                speed_now = bars.tasks[task].speed
                bars.update(task, completed=done, rate=f"{speed_now:,.0f}" if speed_now else "-")

        try:
            result = await replay.run(advance)
        except asyncio.CancelledError:
            raise CutShortError(
                f"interrupted: {replay.result.sent:,} of {len(plan):,} fixes were sent, "
                f"{reached[0]:,} are durable, {reached[1]:,} are processed"
            ) from None
    after = cpu_seconds(mesh) if mesh is not None else {}
    return Outcome(
        result, replay.accuracy, {name: after[name] - before[name] for name in after if name in before}
    )
