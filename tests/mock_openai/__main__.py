"""`python -m tests.mock_openai --port N`: the mock as a process, for measurements.

Prints one line of JSON with its address when it listens, and one with its counts when it is told to stop.
"""

import argparse
import asyncio
import json
import signal

import uvloop

from tests.mock_openai.script import Fault, Script
from tests.mock_openai.server import MockOpenAI


async def _serve(arguments: argparse.Namespace) -> None:
    server = MockOpenAI(record=0)
    server.always(
        Script(
            text=arguments.text,
            delay_s=arguments.delay_ms / 1000,
            fault=Fault(arguments.fault) if arguments.fault else None,
            retry_after=arguments.retry_after,
        )
    )
    await server.start(host=arguments.host, port=arguments.port)
    print(json.dumps({"base_url": server.base_url, "port": server.port}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    counts = {"requests": server.total, "peak": server.peak, "abandoned": server.abandoned}
    await server.close()
    print(json.dumps(counts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mock_openai")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--text", default="It is on its way.")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--fault", default="", choices=["", *(fault.value for fault in Fault)])
    parser.add_argument("--retry-after", default="")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
