"""`make bench`: run every measurement; each prints one JSON line last, kept in .build/bench.jsonl."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# A bench ends with it where what it needs is not there, and says what that is.
SKIPPED = 77


def main() -> int:
    names = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=", ".join(names))
    chosen = parser.parse_args().names
    results = HERE.parent / ".build" / "bench.jsonl"
    results.parent.mkdir(exist_ok=True)
    failed: list[str] = []
    with results.open("w") as out:
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
            out.write(json.dumps({"bench": name, **json.loads(lines[-1])}) + "\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
