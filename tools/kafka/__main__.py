"""`python -m tools.kafka`: a cluster of three nodes until Ctrl-C; its addresses on stdout."""

import argparse
import asyncio
import signal
import sys

from tools.kafka.cluster import KafkaCluster
from tools.kafka.jars import KafkaUnavailableError


async def main() -> None:
    """Serves until it is told to end."""
    argparse.ArgumentParser(prog="python -m tools.kafka", description=__doc__).parse_args()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with KafkaCluster() as cluster:
        print(f"KAFKA_BOOTSTRAP_SERVERS={cluster.bootstrap_servers}", flush=True)
        await ended.wait()


try:
    asyncio.run(main())
except KafkaUnavailableError as error:
    sys.exit(str(error))
