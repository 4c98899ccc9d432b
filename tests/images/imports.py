"""What a program imports, directly and by others of ours, at the start and later: read from the source."""

import ast
import functools
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def reached(entries: list[str]) -> tuple[set[str], set[str]]:
    """Modules of ours, and names of others' modules, that the entries lead to."""
    ours: set[str] = set()
    others: set[str] = set()
    waiting = list(entries)
    while waiting:
        parts = waiting.pop().split(".")
        if parts[0] != "services":
            if parts[0] not in sys.stdlib_module_names:
                others.add(".".join(parts))
            continue
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            path = _file(name)
            if path is not None and name not in ours:
                ours.add(name)
                waiting += _imports(path)
    return ours, others


def distributions_of(modules: set[str]) -> set[str]:
    """Of each module the one distribution that has it; the deepest name that is one decides."""
    owners = _owners()
    found = set()
    for module in modules:
        parts = module.split(".")
        names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        holder = next((owners[name] for name in names if name in owners), None)
        if holder is not None:
            found.add(holder)
    return found


@functools.cache
def _owners() -> dict[str, str]:
    """Module to distribution; `waymesh` is an editable installation and has its files elsewhere."""
    found = {"waymesh": "waymesh-contracts", "buf": "waymesh-contracts"}
    for distribution in distributions():
        name = str(distribution.metadata["Name"]).lower().replace("_", "-")
        for file in distribution.files or ():
            path = Path(file)
            if path.suffix in (".py", ".so"):
                module = path.with_suffix("").as_posix().partition(".")[0].replace("/", ".")
                found.setdefault(module.removesuffix(".__init__"), name)
    return found


def _file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.exists():
            return candidate
    return None


@functools.cache
def _imports(path: Path) -> tuple[str, ...]:
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
