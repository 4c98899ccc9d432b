"""The model of bench/agents.py: the tests' OpenAI-compatible server as a process.

`mock` answers at once, `mock-20ms` after 20 ms, `mock-never` not before its caller has gone. At SIGUSR1 it
writes a line of JSON: the requests so far, how many were abandoned, and the most at once since the last such
line.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Final

import uvloop

from tests.mock_openai import MockOpenAI, Script

ANSWER: Final = "It is on its way."
AT_ONCE: Final = "mock"
AFTER_20_MS: Final = "mock-20ms"
NEVER: Final = "mock-never"
_NEVER_S: Final = 600.0


async def main(port: int) -> None:
    server = MockOpenAI(record=0)
    server.always(Script(text=ANSWER))
    server.always(Script(text=ANSWER, delay_s=0.02), AFTER_20_MS)
    server.always(Script(text=ANSWER, delay_s=_NEVER_S), NEVER)
    await server.start(port=port)

    def tell() -> None:
        told = {"requests": server.total, "abandoned": server.abandoned, "peak": server.peak}
        server.peak = server.under_way
        print(json.dumps({"bench": told}), flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
