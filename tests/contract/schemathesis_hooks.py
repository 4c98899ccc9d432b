"""What schemathesis is told about the mesh, named by SCHEMATHESIS_HOOKS."""

import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

import schemathesis
from schemathesis.generation.meta import TestPhase

from tests.examples import ALL

# What the examples of the document name, and what they are about in a mesh where all of them are tried: each
# task that takes something away, or changes it, has one of its own.
ABOUT: Final[Mapping[str, Mapping[str, str]]] = {
    "add_capability": {"capability_1": "weather"},
    "cancel_order": {"order_1": "order_2"},
    "delete_agent": {"agent_1": "agent_2"},
    "update_agent": {"agent_1": "agent_3", "name_1": "agent_3_renamed"},
}


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """What covers the schema of /execute covers that of /run, the same one: each case goes to one of them."""
    path = case.operation.path
    if ALL or path not in ("/execute", "/run") or case.meta.phase.name is not TestPhase.COVERAGE:
        return True
    said = json.dumps(case.body, sort_keys=True, default=str).encode()
    return zlib.crc32(said) % 2 == (path == "/run")


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """A request has time: that a few ms pass on a slow machine, which is a 504, is no fault of the mesh."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("timeout_ms"), int | float):
        valid = not isinstance(body["timeout_ms"], bool) and 0 < body["timeout_ms"] <= 60_000
        if valid:
            case.body = {**body, "timeout_ms": 60_000}
    if isinstance(case.body, dict) and isinstance(case.body.get("task"), str):
        names = ABOUT.get(case.body["task"])
        if names is not None:
            case.body = _renamed(case.body, names)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value
