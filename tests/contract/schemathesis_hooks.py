"""What schemathesis is told about the mesh, named by SCHEMATHESIS_HOOKS."""

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """A request has time: that a few ms pass on a slow machine, which is a 504, is no fault of the mesh."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("timeout_ms"), int | float):
        valid = not isinstance(body["timeout_ms"], bool) and 0 < body["timeout_ms"] <= 60_000
        if valid:
            case.body = {**body, "timeout_ms": 60_000}
