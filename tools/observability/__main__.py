"""`python -m tools.observability write` makes what is derived in deploy/observability.

`check` tells what of it is stale.
"""

import sys
from pathlib import Path

from tools.observability import derived


def main(arguments: list[str]) -> int:
    """Exit code: 1 if `check` found something that `write` would change."""
    if arguments not in (["write"], ["check"]):
        print(__doc__)
        return 2
    files = derived.files()
    stale = [path for path, text in files.items() if _held(path) != text]
    left = [path for path in derived.present() if path not in files]
    if arguments == ["check"]:
        for path in (*stale, *left):
            print(f"{path.relative_to(derived.ROOT)} is stale: python -m tools.observability write")
        return 1 if stale or left else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], "utf-8")
    for path in left:
        path.unlink()
    return 0


def _held(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
