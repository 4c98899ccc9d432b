"""The agents service as it is, for bench/agents.py: at SIGUSR1 it says how many tasks its loop has.

A line of JSON on standard output, `{"bench": {"tasks": …, "names": {…}}}`; names without their numbers.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter

from services.agents.server import NAME, Agents
from services.agents.settings import AgentsSettings
from services.mesh.process import run_service


class CountedAgents(Agents):
    """Differs in nothing that a run goes through."""

    async def wire(self) -> None:
        await super().wire()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell)


def _tell() -> None:
    tasks = asyncio.all_tasks()
    coroutines = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
    print(json.dumps({"bench": {"tasks": len(tasks), "of": coroutines}}), flush=True)


if __name__ == "__main__":
    run_service(NAME, AgentsSettings, CountedAgents)
