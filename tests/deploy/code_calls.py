"""Whom the code calls, found in the code: targets that are read, stores and buses that are opened."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from services.gateway import tasks
from services.gateway.rest import binding

ROOT: Final = Path(__file__).resolve().parents[2]
NAMES: Final = ("agents", "eta", "feedback", "gateway", "route")


@cache
def _nodes(service: str) -> tuple[ast.AST, ...]:
    files = sorted((ROOT / "services" / service).rglob("*.py"))
    return tuple(node for file in files for node in ast.walk(ast.parse(file.read_text())))


def _attributes(service: str) -> set[str]:
    return {node.attr for node in _nodes(service) if isinstance(node, ast.Attribute)}


def _classes(service: str) -> Iterator[ast.ClassDef]:
    return (node for node in _nodes(service) if isinstance(node, ast.ClassDef))


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def called_by(service: str) -> set[str]:
    """Services whose RPCs it calls."""
    attributes = _attributes(service)
    found = {name for name in NAMES if f"{name}_target" in attributes}
    # What the mesh does in a service's name: outcomes by its pipeline, signals unless it keeps them itself.
    if any(
        isinstance(node, ast.Attribute) and ast.unparse(node) == "FeedbackPipeline.create"
        for node in _nodes(service)
    ):
        found.add("feedback")
    for each in _classes(service):
        if any("GrpcService" in _names(base) for base in each.bases):
            own = {one.name for one in each.body if isinstance(one, ast.AsyncFunctionDef | ast.FunctionDef)}
            found |= set() if "record_signals" in own else {"feedback"}
    if "target_of" in attributes:
        found |= {*tasks.owners(tasks.load()), *(each.owner for each in binding.load())}
    return found


def keeps_something(service: str) -> bool:
    """Whether it opens a store."""
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) in ("self.open_store", "Store.open")
        for node in _nodes(service)
    )


def has_a_bus(service: str) -> bool:
    """Whether it publishes or reads events."""
    return "open_bus" in _attributes(service)


def groups(service: str) -> dict[str, set[str]]:
    """Consumer groups by their name behind the prefix, with the topics they read."""
    found: dict[str, set[str]] = {}
    constants = {
        target.id: node.value.value
        for node in (
            *_nodes(service),
            *ast.walk(ast.parse((ROOT / "services/mesh/events/topics.py").read_text())),
        )
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant)
        for target in [node.target]
        if isinstance(target, ast.Name)
    }
    for node in _nodes(service):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("bus.consume"):
            group, topics = node.args[0], node.args[1]
            assert ast.unparse(group) == "self.group", ast.unparse(node)
            assert isinstance(topics, ast.List)
            found.setdefault(service, set()).update(str(constants[ast.unparse(each)]) for each in topics.elts)
    return found


def speaks_to_the_world(service: str) -> bool:
    """Whether it has addresses of its own outside of the mesh: https:// in what it may be told to call."""
    return any(
        isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("https://")
        for file in [ROOT / "services" / service / "settings.py"]
        for node in ast.walk(ast.parse(file.read_text()))
    )
