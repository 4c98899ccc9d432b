"""Seconds from a fresh clone to a mesh that serves: `make run` with an empty home, all downloads included.

The repository's last commit is cloned into an empty folder. The time runs from the command until it says
READY; then Ctrl-C, and the same again with what the first time has left. Needs make, git and a package index.
The index's own time counts; a cache of downloads that the environment names is not used.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench._command import command
from bench._mesh import a_folder, report, say
from tests.faults.up_rig import mesh_ports

ROOT: Final = Path(__file__).resolve().parents[1]
LIMIT_FIRST_S: Final = 120.0
LIMIT_AGAIN_S: Final = 6.0
DROPPED: Final = frozenset(
    {"VIRTUAL_ENV", "PYTHONPATH", "UV_CACHE_DIR", "XDG_CACHE_HOME", "DATABASE_URL", "FASTAPI_API_KEY"}
)
_READY_S: Final = 600.0
_STOP_S: Final = 60.0


async def run_s(clone: Path, environ: dict[str, str]) -> float:
    """Seconds from `make run` to READY; ends it by Ctrl-C."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        "make",
        "run",
        f"PYTHON={sys.executable}",
        cwd=clone,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    said: list[str] = []
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_READY_S):
            async for line in process.stdout:
                said.append(line.decode(errors="replace"))
                if said[-1].startswith("READY"):
                    return time.perf_counter() - began
        raise RuntimeError(f"make run ended before it was ready:\n{''.join(said[-20:])}")
    finally:
        if process.returncode is None:
            # As a terminal does it: to make and to all it has started.
            os.killpg(process.pid, signal.SIGINT)
            async with asyncio.timeout(_STOP_S):
                await process.communicate()


def environment(home: Path) -> dict[str, str]:
    """That of a new user: an empty home, no other environment active, no cache of downloads."""
    kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
    return {**kept, **mesh_ports(), "HOME": str(home)}


async def measure(folder: Path) -> dict[str, Any]:
    environ = environment(folder / "home")
    times = []
    for name in ("first", "again"):
        times.append(await run_s(folder / "waymesh", environ))
        say(f"{name}: {times[-1]:.1f} s")
    first, again = times
    return {
        "first_s": round(first, 1),
        "again_s": round(again, 1),
        "limit_first_s": LIMIT_FIRST_S,
        "limit_again_s": LIMIT_AGAIN_S,
        "within_limits": first <= LIMIT_FIRST_S and again <= LIMIT_AGAIN_S,
    }


def main() -> int:
    command("fresh_clone", __doc__).parse_args()
    with a_folder() as folder:
        folder.chmod(0o755)  # PostgreSQL's account goes through it
        (folder / "home").mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "waymesh")], check=True)
        return report(lambda: measure(folder))


if __name__ == "__main__":
    sys.exit(main())
