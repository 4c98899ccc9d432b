"""Agents: what a run costs beside LiteLLM's proxy, what stays of very many runs, and whether limits hold.

--overhead: the same model asked directly, as a run by /execute and by RunTask (gRPC), and through LiteLLM's
proxy (PyPI, in .tools/litellm, made at the first use; on its usual server and on granian), in turns, with 1
and with 16 connections. "direct" is the bare client that loads all who speak HTTP; "openai" is the official
client. The model is told the same by everybody. Ours checks a key, validates, limits, records each run when
it is accepted and when it has ended in PostgreSQL with fsync on, and gives its outcome to feedback; LiteLLM
checks a key and records nothing. Nothing is cached.

--memory: 100,000 runs, a tenth of them cancelled, half of those by hanging up and half by CancelRun; the
memory, tasks and sockets of the process every 1,000, and what PostgreSQL says of each run.

--limits: 200 callers of an agent that may ask its model five times at once, and of one with a small budget.
Without any of the three, all are measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any, Final

import uvloop

from bench._agents_limits import limits
from bench._agents_memory import memory
from bench._agents_overhead import overhead
from bench._command import command, seconds
from bench._mesh import say

_PARTS: Final = ("overhead", "memory", "limits")


def main() -> int:
    parser = command("agents", __doc__)
    parser.add_argument("--overhead", action="store_true", help="a run beside a direct call and LiteLLM")
    parser.add_argument("--memory", action="store_true", help="what very many runs leave behind")
    parser.add_argument("--limits", action="store_true", help="whether concurrency and budgets hold")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of the overhead")
    parser.add_argument(
        "--seconds", type=seconds, default=4.0, help="length of one measurement of the overhead"
    )
    parser.add_argument("--runs", type=int, default=100_000, help="runs of the memory")
    parser.add_argument("--every", type=int, default=1_000, help="runs between two looks at the memory")
    parser.add_argument("--at-once", type=int, default=24, help="runs of the memory under way at a time")
    parser.add_argument("--callers", type=int, default=200, help="callers at once of the limits")
    arguments = parser.parse_args()
    chosen = [part for part in _PARTS if getattr(arguments, part)] or list(_PARTS)

    async def measure() -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        result: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 1)}
        if "overhead" in chosen:
            result["overhead"] = await overhead(rounds=max(1, arguments.rounds), seconds=arguments.seconds)
        if "memory" in chosen:
            result["memory"] = await memory(
                runs=arguments.runs, at_once=arguments.at_once, every=arguments.every
            )
        if "limits" in chosen:
            result["limits"] = await limits(callers=arguments.callers, each=5)
        return result

    try:
        result = uvloop.run(measure())
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped")
        return 130
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
