"""`waymesh keys` and `waymesh audit` in a process of its own."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


async def keys(dsn: str, *arguments: str, data_dir: Path | None = None) -> tuple[int, str, str]:
    """`python -m services.gateway keys …`: exit code, stdout, stderr."""
    return await ran(dsn, "keys", *arguments, data_dir=data_dir)


async def ran(dsn: str, *arguments: str, data_dir: Path | None = None) -> tuple[int, str, str]:
    """The same for any command of the gateway."""
    environ = {**os.environ, "DATABASE_URL": dsn}
    if data_dir is not None:
        environ["WAYMESH_DATA_DIR"] = str(data_dir)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gateway", *arguments),
        env=environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()
