"""Run benches one after the other: those named, or all, as `make bench` does.

The JSON line that each prints last is kept in .build/bench.jsonl, in place of the one before. A bench that
lacks something on this machine says what, and is passed over; one that fails is named at the end.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path

from bench._command import Help

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / ".build" / "bench.jsonl"
# A bench ends with it where what it needs is not there, and says what that is.
SKIPPED = 77


def main() -> int:
    names = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))
    each = "Each has options of its own: python -m bench.NAME --help"
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="\n\n".join([*map(_about, names), each]),
        formatter_class=Help,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="one of those below; all if none is named")
    chosen = parser.parse_args().names or names
    if unknown := set(chosen) - set(names):
        parser.error(f"no bench is called {', '.join(sorted(unknown))}")
    failed: list[str] = []
    for name in chosen:
        print(f"── {name}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"bench.{name}"],
            check=False,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
        )
        print(done.stdout, end="", flush=True)
        if done.returncode == SKIPPED:
            continue
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            failed.append(name)
            continue
        _keep({"bench": name, **json.loads(lines[-1])})
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def _keep(result: dict[str, object]) -> None:
    """Writes it beside the newest of the other benches."""
    RESULTS.parent.mkdir(exist_ok=True)
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    others = [line for line in lines if json.loads(line)["bench"] != result["bench"]]
    RESULTS.write_text("\n".join([*others, json.dumps(result)]) + "\n")


def _about(name: str) -> str:
    """Its name and what it measures, which is the first paragraph of its docstring."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or ""
    about = " ".join(text.split("\n\n")[0].split())
    return textwrap.fill(about, 100, initial_indent=f"  {name:14}", subsequent_indent=" " * 16)


if __name__ == "__main__":
    sys.exit(main())
