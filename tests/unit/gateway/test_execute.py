"""Whatever the body: an answer, or an error that may be told."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway import tasks
from services.gateway.authority import Authority
from services.gateway.exchange import ARRIVED, Exchange
from services.gateway.execute import Executor
from services.mesh.errors import MeshError

TASKS = tasks.load()


class Answers:
    """Stands for the RPC: this is about what comes before it."""

    def __init__(self, task: tasks.Task) -> None:
        self._response = task.response()

    async def __call__(self, request: Any) -> tuple[Any, int]:
        request.SerializeToString()
        return self._response, 1


EXECUTOR = Executor(
    TASKS,
    {name: Answers(task) for name, task in TASKS.items()},  # type: ignore[misc]
    {},
    Authority(lambda: None, needed=False),
    max_body_bytes=1 << 20,
    timeout_ms=10_000,
)


def exchange(
    body: bytes, headers: Mapping[bytes, bytes] = {b"content-type": b"application/json"}
) -> Exchange:
    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"method": "POST", "path": "/execute", "headers": list(headers.items()), ARRIVED: lambda: True}
    return Exchange(scope, receive, "gateway", time.monotonic())


def run(body: bytes) -> dict[str, Any]:
    async def once() -> dict[str, Any]:
        done = await EXECUTOR.run(exchange(body), "")
        assert isinstance(done, tuple)
        return done[0]

    return asyncio.run(once())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
envelopes = st.fixed_dictionaries(
    {"task": st.sampled_from([*TASKS]) | json_values},
    optional={"parameters": json_values, "timeout_ms": json_values, "other": json_values},
)


@settings(deadline=None)
@given(body=st.binary(max_size=50) | (envelopes | json_values).map(lambda value: json.dumps(value).encode()))
def test_any_body_is_answered_or_refused_with_an_error_that_may_be_told(body: bytes) -> None:
    try:
        answer = run(body)
    except MeshError as error:
        error.message.encode()
        for violation in error.violations:
            violation.field.encode()
            assert violation.description
    else:
        assert isinstance(answer["result"], dict)


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        (b"application/json", True),
        (b"application/json; charset=utf-8", True),
        (b'Application/JSON;charset="UTF-8"', True),
        (b"application/json;", True),
        (b"application/json; charset=latin-1", False),
        (b"application/jsonp", False),
        (b"text/json", False),
        (b"application/x-www-form-urlencoded", False),
        (b"", False),
    ],
)
def test_the_content_type_must_be_json_in_utf_8(content_type: bytes, taken: bool) -> None:
    asked = exchange(b"{}", {b"content-type": content_type})
    if taken:
        asked.require_json()
    else:
        with pytest.raises(MeshError, match="application/json"):
            asked.require_json()
