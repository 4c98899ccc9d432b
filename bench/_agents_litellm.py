"""LiteLLM's proxy, the peer of bench/agents.py, in an environment of its own: .tools/litellm.

As its documentation has it for production: one worker on uvicorn with uvloop, its usual server, or on
granian; a master key, logs of errors alone, no debugging. And what spares it work that others give it: no
database, no callback, no cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil

from bench.__main__ import SKIPPED
from bench._mesh import say
from bench._servers import ROOT, Servers

_LOCK: Final = ROOT / "requirements" / "litellm.txt"
_FOLDER: Final = ROOT / ".tools" / "litellm"
# Empty; newer than the lock where the environment is in step with it.
KEY: Final = "sk-9f2c51d07be84a6c93e1f5a8d4b07c62e8135fa9d6704b2c"
_STAMP: Final = _FOLDER / ".synced"


def install() -> Path:
    """Its program; makes the environment if it is not there. Ends the bench where that cannot be."""
    program = _FOLDER / "bin" / "litellm"
    if _STAMP.exists() and _STAMP.stat().st_mtime >= _LOCK.stat().st_mtime and program.exists():
        return program
    own = ROOT / ".tools" / "uv" / "bin" / "uv"
    uv = shutil.which("uv") or (str(own) if own.exists() else None)
    if uv is None:
        print("not run: uv is missing; `make bench` brings it", file=sys.stderr)
        sys.exit(SKIPPED)
    say(f"setting up .tools/litellm from requirements/{_LOCK.name}, 600 MB (once)")
    python = _FOLDER / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(_FOLDER)], check=True)
    sync = ["pip", "sync", "--quiet", "--python", str(python), "--require-hashes", str(_LOCK)]
    subprocess.run([uv, *sync], check=True)
    _STAMP.touch()
    return program


def start(
    servers: Servers, folder: Path, port: int, model_port: int, models: list[str], *, granian: bool
) -> psutil.Process:
    """Begins to serve the `models` of the server at `model_port`; does not wait."""
    config = {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {
                    "model": f"openai/{model}",
                    "api_base": f"http://127.0.0.1:{model_port}/v1",
                    "api_key": "sk-bench",
                },
            }
            for model in models
        ],
        "litellm_settings": {"set_verbose": False, "json_logs": True, "request_timeout": 600},
        "general_settings": {"disable_error_logs": True, "disable_spend_logs": True},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))  # YAML reads JSON
    return servers.start(
        f"litellm-{port}",
        # What it finds there would be its own database.
        *("env", "-u", "DATABASE_URL", str(install())),
        *("--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"),
        *(("--run_granian",) if granian else ()),
        PYTHONPATH="",
        LITELLM_MODE="PRODUCTION",
        LITELLM_LOG="ERROR",
        LITELLM_MASTER_KEY=KEY,
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        DISABLE_ADMIN_UI="True",
        NO_PROXY="127.0.0.1",
        PATH=f"{_FOLDER / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
    )
