"""The OpenAPI document: true to the contracts, and to what the running mesh does."""

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway import openapi, schema, tasks
from services.mesh.chain.server.validation import check
from services.mesh.errors import MeshError

ROOT = Path(__file__).resolve().parents[2]
KEY = "wm_contract"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
)
TASKS = tasks.load()
DOCUMENT = openapi.document(TASKS.values())
by_task = pytest.mark.parametrize("name", list(TASKS))


def validator(name: str) -> Any:
    """Of the body of a task."""
    reference = DOCUMENT["components"]["schemas"]["Task"]["discriminator"]["mapping"][name]
    return jsonschema_rs.validator_for({"$ref": reference, "components": DOCUMENT["components"]})


def accepts(task: tasks.Task, parameters: object) -> bool:
    """What the gateway and the owner's chain say, without a network."""
    try:
        check(task.read({} if parameters is None else parameters))
    except MeshError:
        return False
    return True


def test_its_schemas_are_valid_json_schema_and_all_references_lead_somewhere() -> None:
    components = DOCUMENT["components"]["schemas"]
    for name, component in components.items():
        assert jsonschema_rs.meta.is_valid(component), name
    referenced = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert referenced <= set(components)
    assert set(components) - referenced <= {"Task"}


@by_task
def test_every_task_is_in_it_with_an_example_that_keeps_the_rules(name: str) -> None:
    examples = DOCUMENT["paths"]["/execute"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    body = examples[name]["value"]
    assert validator(name).is_valid(body)
    assert accepts(TASKS[name], body["parameters"])


@by_task
def test_parameters_are_needed_where_the_owner_needs_them(name: str) -> None:
    if accepts(TASKS[name], {}):
        assert validator(name).is_valid({"task": name})
        assert validator(name).is_valid({"task": name, "parameters": None, "timeout_ms": None})
    else:
        assert name in ("predict_eta", "optimize_route") or not validator(name).is_valid({"task": name})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2000) | st.floats(-200, 200) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@by_task
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_the_schema_refuses_the_mesh_refuses(name: str, data: st.DataObject) -> None:
    """Around an example that is right: values replaced, fields dropped, fields that do not exist."""
    task = TASKS[name]
    parameters: Any = schema.example(task.parameters.DESCRIPTOR)
    descriptor: Any = task.parameters.DESCRIPTOR
    names = [field.name for field in descriptor.fields]
    for _ in range(data.draw(st.integers(1, 3))):
        holder, fields = parameters, names
        nested = [key for key, value in holder.items() if isinstance(value, dict | list) and value]
        if nested and data.draw(st.booleans()):
            holder = holder[data.draw(st.sampled_from(nested))]
            if isinstance(holder, list):
                holder = holder[0]
            if not isinstance(holder, dict):
                continue
            fields = [*holder]
        key = data.draw(st.sampled_from([*fields, "unknown"]))
        if data.draw(st.booleans()):
            holder.pop(key, None)
        else:
            holder[key] = data.draw(json_values)
    if not validator(name).is_valid({"task": name, "parameters": parameters}):
        assert not accepts(task, parameters), parameters


def test_responses_that_say_when_to_come_back_say_so_in_the_document() -> None:
    for path in ("/execute", "/run"):
        responses = DOCUMENT["paths"][path]["post"]["responses"]
        assert set(responses) == {
            *(
                "200",
                "400",
                "401",
                "403",
                "404",
                "409",
                "413",
                "415",
                "429",
                "431",
                "500",
                "501",
                "503",
                "504",
            )
        }
        for status, response in responses.items():
            assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
            assert response["headers"]["X-Request-Id"]["required"]


# --- the running mesh -----------------------------------------------------------------------------


def free_ports(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


async def ready(port: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    except OSError:
        return False
    try:
        writer.write(b"GET /health/ready HTTP/1.1\r\nHost: mesh\r\nConnection: close\r\n\r\n")
        return (await reader.read()).startswith(b"HTTP/1.1 200")
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def running_mesh(dsn: str, folder: Path) -> AsyncIterator[str]:
    """feedback, eta, route and the gateway as processes of their own; the gateway's address."""
    public, demo, custom, *rest = free_ports(9)
    environ = {
        **os.environ,
        "DATABASE_URL": dsn,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_DRAIN_S": "0",
        "FASTAPI_API_KEY": KEY,
        "WAYMESH_RATE_PER_S": "1000000",
        "WAYMESH_RATE_BURST": "1000000",
        "PORT": public,
        "WAYMESH_AGENT_DEMO_PORT": demo,
        "WAYMESH_AGENT_CUSTOM_PORT": custom,
    }
    probes = {"gateway": public}
    for name, port, admin in zip(("feedback", "eta", "route"), rest[::2], rest[1::2], strict=True):
        environ[f"WAYMESH_{name.upper()}_PORT"] = port
        environ[f"WAYMESH_{name.upper()}_ADMIN_PORT"] = admin
        environ[f"WAYMESH_{name.upper()}_TARGET"] = f"127.0.0.1:{port}"
        probes[name] = admin
    processes: dict[str, asyncio.subprocess.Process] = {}
    try:
        for name in ("feedback", "eta", "route", "gateway"):
            with (folder / f"{name}.log").open("wb") as log:
                processes[name] = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", f"services.{name}"), env=environ, cwd=ROOT, stderr=log, stdout=log
                )
        async with asyncio.timeout(60):
            for name, port in probes.items():
                while not await ready(port):
                    assert processes[name].returncode is None, (folder / f"{name}.log").read_text()[-2000:]
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{public}"
    finally:
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in processes.values():
            await process.wait()


def faults(folder: Path) -> str:
    """What the services say of their own errors."""
    lines: list[Mapping[str, Any]] = []
    for log in sorted(folder.glob("*.log")):
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    wrong = [
        f"{each['service']}: {each['message']} {each['error'][-300:]}" for each in lines if each.get("error")
    ]
    return "\n".join(wrong[:10])


async def test_schemathesis_finds_no_failure_in_the_running_mesh(database: str, tmp_path: Path) -> None:
    async with running_mesh(database, tmp_path) as address:
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json"),
            *(
                "--checks",
                ",".join(CHECKS),
                "-H",
                f"X-API-Key: {KEY}",
                "--phases",
                "examples,coverage,fuzzing",
            ),
            *("--max-examples", "50", "--generation-deterministic", "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    report = output.decode()
    assert "7 selected / 7 total" in report or "8 selected / 8 total" in report, report
    assert process.returncode == 0, f"{report}\n{faults(tmp_path)}"
