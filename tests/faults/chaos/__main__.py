"""`make chaos`: faults at random on a whole mesh under load; one line of JSON at the end."""

import argparse
import asyncio
import logging
import os
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.faults.chaos.plan import Kind

_SERVERS: Final = "KAFKA_BOOTSTRAP_SERVERS"
# gRPC says so whenever a process is started that is given something to do before its own program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from tests.faults.chaos.run import Options, Run  # noqa: E402 - gRPC reads the variable when it is imported
from tests.faults.up_rig import a_folder  # noqa: E402
from tools.kafka.jars import KafkaUnavailableError, classpath  # noqa: E402


def options() -> Options:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, default=None, help="random by default; the same gives the same faults"
    )
    parser.add_argument("--bus", choices=("auto", "embedded", "kafka"), default="auto")
    parser.add_argument(
        "--report",
        type=Path,
        default=Path(tempfile.gettempdir()) / "waymesh-chaos",
        help="folder for findings",
    )
    parser.add_argument(
        "--each-once", action="store_true", help="no kind of fault twice before all have been"
    )
    parser.add_argument("--only", default="", help=f"kinds of faults, by commas: {', '.join(Kind)}")
    given = parser.parse_args()
    try:
        only = tuple(Kind(word) for word in given.only.split(",") if word)
    except ValueError as error:
        parser.error(str(error))
    servers = os.environ.get(_SERVERS) or None
    kafka = given.bus == "kafka"
    if given.bus == "auto" or (kafka and servers is None):
        try:
            kafka = servers is not None or bool(classpath())
        except KafkaUnavailableError as error:
            if given.bus == "kafka":
                parser.exit(2, f"{error}\n")
            print(f"on the embedded bus: {error}", file=sys.stderr)
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    named = servers if kafka else None
    return Options(seed, given.faults, kafka, named, given.report, given.each_once, only)


async def main(chosen: Options) -> int:
    """The exit code: 0 if nothing was lost, twice or out of order."""
    logging.basicConfig(level=logging.ERROR)  # callers have breakers, which say when they open
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    bus = "Kafka" if chosen.kafka else "the embedded bus"
    print(f"seed {chosen.seed}, {chosen.faults} faults, on {bus}", file=sys.stderr)
    with a_folder() as folder:
        run = Run(chosen, folder)
        try:
            result = await run.execute()
        except asyncio.CancelledError:
            print("\nstopped", file=sys.stderr)
            return 130
        except BaseException:
            print(f"\nthe harness failed; what there is lies in {run.keep()}", file=sys.stderr)
            raise
        finally:
            await run.close()
        if not result.ok:
            print(f"what was wrong lies in {run.keep()}", file=sys.stderr)
        print(result.line())
        return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(options())))
