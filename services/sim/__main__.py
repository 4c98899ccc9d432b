"""`python -m services.sim`: the demo fleet, as `waymesh up --demo` starts it. Prints a line every few
seconds.
"""

import argparse
import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final

import grpc

from services.mesh.settings import SettingsError
from services.sim.demo import Demo, Figures
from services.sim.latency import Latencies

_HEADINGS: Final = (
    "            couriers   orders                              arrival time         p50/p99 ms, from\n"
    "  time      free busy  waiting assigned carried delivered  off by    in P10-P90 "
    " fix    fix to ETA  order to courier"
)
_HEADINGS_EVERY: Final = 12


class Table:
    """A table that grows by a row every few seconds."""

    def __init__(self) -> None:
        self._rows = 0

    def show(self, now: Figures) -> None:
        """One more row; the headings again now and then."""
        if self._rows % _HEADINGS_EVERY == 0:
            _say(f"\n{_HEADINGS}")
        self._rows += 1
        score = now.accuracy.overall()
        off_by = f"{score.mae_minutes:.1f} min" if score is not None else "-"
        held = f"{score.coverage:.0%}" if score is not None else "-"
        trouble = f"   {now.trouble}" if now.trouble else ""
        _say(
            f"  {time.strftime('%H:%M:%S')}  {now.couriers_free:>4} {now.couriers_busy:>4}  "
            f"{now.waiting:>7} {now.assigned:>8} {now.carried:>7} {now.delivered:>9}  "
            f"{off_by:<8}  {held:<10} {_both(now.gps):<7} {_both(now.prediction):<11} "
            f"{_both(now.allocation)}{trouble}"
        )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _both(latencies: Latencies) -> str:
    p50, p99 = latencies.quantile_ms(0.5), latencies.quantile_ms(0.99)
    return "-" if p50 is None or p99 is None else f"{p50:.0f}/{p99:.0f}"


async def _until_terminated(running: Coroutine[Any, Any, None]) -> None:
    """Runs to its end; SIGTERM cancels it, so that it can clean up."""
    task = asyncio.create_task(running)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:  # nan neither
        raise argparse.ArgumentTypeError(f"'{text}' is not a finite number above 0")
    return number


def main() -> int:
    """Runs until it is ended; 1 if the mesh refuses."""
    parser = argparse.ArgumentParser(prog="python -m services.sim", description=__doc__)
    parser.add_argument("--couriers", type=int, default=12)
    parser.add_argument("--speed", type=_positive, default=10.0, help="simulated seconds per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=_positive, default=5.0, help="seconds between rows")
    chosen = parser.parse_args()
    demo = Demo(couriers=chosen.couriers, speed=chosen.speed, seed=chosen.seed, started=time.time())
    eta_target = os.environ.get("WAYMESH_ETA_TARGET") or "127.0.0.1:50051"
    route_target = os.environ.get("WAYMESH_ROUTE_TARGET") or "127.0.0.1:50052"
    try:
        asyncio.run(_until_terminated(demo.run(eta_target, route_target, chosen.every, Table().show)))
    except grpc.aio.AioRpcError as error:
        _say(f"the mesh refused: {error.code().name}: {error.details()}")
        return 1
    except SettingsError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
