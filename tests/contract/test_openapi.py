"""The OpenAPI document: true to the contracts, and to what the running mesh does."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway import openapi, schema, tasks
from services.gateway.rest import binding, parameters
from services.gateway.rest.table import Table
from services.gateway.settings import GatewaySettings
from services.mesh import json_codec
from services.mesh.chain.server.validation import check
from services.mesh.errors import MeshError
from tests.examples import examples
from tests.running_mesh import KEY, ROOT, RunningMesh, running_mesh

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
)
TASKS = tasks.load()
BINDINGS = binding.load()
PATHS = Table(BINDINGS)
DOCUMENT = openapi.document(TASKS.values(), BINDINGS, GatewaySettings())
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
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


def test_limits_that_can_be_set_are_told_as_they_are_set() -> None:
    told = json.dumps(DOCUMENT)
    assert "The body is larger than 2 MiB" in told
    assert "The headers are larger than 16 KiB" in told
    assert "Milliseconds for everything; 10,000 without." in told
    other = {
        "WAYMESH_MAX_BODY_BYTES": 1_000_001,
        "WAYMESH_MAX_HEAD_BYTES": 2 << 10,
        "WAYMESH_TIMEOUT_MS": 2_500,
    }
    told = json.dumps(openapi.document(TASKS.values(), BINDINGS, GatewaySettings(**other)))
    assert "The body is larger than 1,000,001 bytes" in told
    assert "The headers are larger than 2 KiB" in told
    assert "Milliseconds for everything; 2,500 without." in told


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
                "406",
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


def test_tasks_that_stream_say_what_their_events_are() -> None:
    for path in ("/execute", "/run"):
        content = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
        told = content["text/event-stream"]["x-event-data"]["oneOf"]
        assert {"$ref": "#/components/schemas/StreamRunResponseOut"} in told
        assert {"$ref": "#/components/schemas/Error"} in told
    bodies = DOCUMENT["components"]["schemas"]
    streaming = {name for name, task in TASKS.items() if task.stream is not None}
    assert streaming >= {"ask", "explain_eta", "explain_route", "plan_delivery", "run_task"}
    mapping = DOCUMENT["components"]["schemas"]["Task"]["discriminator"]["mapping"]
    for name, reference in mapping.items():
        told = bodies[reference.rpartition("/")[2]]["description"]
        assert ("Also as a stream of events." in told) == (name in streaming)


def test_every_task_and_path_says_which_scope_a_key_needs_for_it() -> None:
    components = DOCUMENT["components"]["schemas"]
    for name, reference in components["Task"]["discriminator"]["mapping"].items():
        body, scope = components[reference.rpartition("/")[2]], "admin" if TASKS[name].admin else name
        assert body["x-scope"] == scope
        assert f"`{scope}`" in body["description"]
    for bound in BINDINGS:
        assert operation(bound)["x-scope"] == ("admin" if bound.admin else bound.name)


# --- paths of RPCs --------------------------------------------------------------------------------

by_binding = pytest.mark.parametrize(
    "bound", BINDINGS, ids=[f"{each.method} {each.template.text}" for each in BINDINGS]
)


def operation(bound: binding.Binding) -> dict[str, Any]:
    """Of the document."""
    found: dict[str, Any] = DOCUMENT["paths"][bound.template.text][bound.method.lower()]
    return found


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [each["operationId"] for methods in DOCUMENT["paths"].values() for each in methods.values()]
    assert len(set(names)) == len(names)


@by_binding
def test_every_field_of_a_request_is_told_where_it_goes(bound: binding.Binding) -> None:
    told = operation(bound)
    places = [(each["name"], each["in"]) for each in told["parameters"] if each["in"] != "header"]
    assert [name for name, place in places if place == "path"] == re.findall(r"{(.+?)}", bound.template.text)
    assert [name for name, place in places if place == "query"] == [
        name for name, _ in parameters.of_query(bound)
    ]
    assert ("requestBody" in told) == bool(bound.body)
    request: Any = bound.request.DESCRIPTOR
    top = {name for name, _ in places if "." not in name}
    if bound.body == "*":
        body = told["requestBody"]["content"]["application/json"]["schema"]
        assert {*body["properties"]} | top == {*request.fields_by_name}
        assert not {*body["properties"]} & top
    assert ("415" in told["responses"]) == bool(bound.body)
    assert "406" not in told["responses"]


@by_binding
def test_what_is_needed_is_what_the_owner_needs(bound: binding.Binding) -> None:
    """A request that has only what the document calls needed lacks nothing."""
    told = operation(bound)
    values = [b"x1" for _ in bound.template.fields]
    query = "&".join(
        f"{each['name']}=1" for each in told["parameters"] if each.get("required") and each["in"] == "query"
    )
    filled = parameters.read(bound, values, query.encode())
    lacking = [each for each in told["parameters"] if each["in"] == "query" and each["required"]]
    for each in lacking:
        without = "&".join(f"{other['name']}=1" for other in lacking if other is not each)
        assert not accepted(bound, parameters.read(bound, values, without.encode()))
    if not told.get("requestBody", {}).get("required"):
        assert accepted(bound, filled)
    else:
        assert not accepted(bound, filled)


def accepted(bound: binding.Binding, filled: dict[str, Any]) -> bool:
    """What the gateway and the owner's chain say, without a network."""
    try:
        check(json_codec.from_dict(bound.request, filled))
    except MeshError:
        return False
    return True


# --- the running mesh -----------------------------------------------------------------------------

# For each operation, besides those that cover the document.
EXAMPLES = str(examples(50))
HERE = {"lat": 0, "lon": 0}
# What the examples of the document are about.
ORDER = {
    "revision": 1,
    "status": "placed",
    "pickup": HERE,
    "dropoff": {"lat": 0, "lon": 0.01},
    "placed_at": "2024-08-28T10:30:00Z",
}
KNOWN: list[tuple[str, dict[str, Any]]] = [
    ("upsert_orders", {"orders": [{"order_id": order_id, **ORDER} for order_id in ("order_1", "order_2")]}),
    (
        "upsert_couriers",
        {
            "couriers": [
                {
                    "driver_id": "driver_1",
                    "revision": 1,
                    "vehicle_type": "car",
                    "status": "off_shift",
                    "position": HERE,
                    "position_at": "2024-08-28T10:30:00Z",
                }
            ]
        },
    ),
    *(
        ("create_agent", {"agent_id": agent_id, "spec": {"name": agent_id}})
        for agent_id in ("agent_1", "agent_2", "agent_3")
    ),
    ("run_task", {"agent": "agent_1", "task": "say where order_1 is", "run_id": "run_1"}),
]
# The life of an agent by its paths.
LIFE: list[tuple[str, str, object]] = [
    ("POST", "/api/agents?agent_id=agent_4", {"name": "agent_4"}),
    ("GET", "/api/agents/agent_4", None),
    ("GET", "/api/agents?page_size=1000&show_deleted=true", None),
    (
        "PUT",
        "/api/agents/agent_4",
        {"expected_version": 1, "spec": {"name": "agent_4", "description": "new"}},
    ),
    ("POST", "/api/agents/agent_4/capabilities/weather", None),
    ("GET", "/api/agents/agent_4/capabilities", None),
    ("GET", "/api/capabilities", None),
    ("GET", "/api/agents/agent_4/versions", None),
    ("GET", "/api/agents/agent_4/diff?from_version=1", None),
    ("POST", "/api/agents/agent_4/revert", {"version": 1}),
    ("DELETE", "/api/agents/agent_4", None),
]


def ask(mesh: RunningMesh, method: str, path: str, body: object) -> tuple[int, Any]:
    """Status and body of one request."""
    request = urllib.request.Request(
        f"{mesh.address}{path}",
        None if body is None else json.dumps(body).encode(),
        {"X-API-Key": KEY, "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(answer.status), json.loads(answer.read())


@dataclass
class Traffic:
    """What went over the wire, out of an HTTP archive: statuses by path, and by path and task."""

    by_path: dict[str, Counter[int]]
    by_task: dict[tuple[str, str], Counter[int]]

    @classmethod
    def read(cls, archive: Path) -> "Traffic":
        found = cls(defaultdict(Counter), defaultdict(Counter))
        for entry in json.loads(archive.read_text())["log"]["entries"]:
            path = template_of(urllib.parse.urlsplit(entry["request"]["url"]).path)
            status = entry["response"]["status"]
            found.by_path[path][status] += 1
            with contextlib.suppress(ValueError, TypeError, KeyError):
                task = json.loads(entry["request"]["postData"]["text"])["task"]
                if task in TASKS:
                    found.by_task[path, task][status] += 1
        return found


def test_schemathesis_finds_no_failure_in_the_running_mesh(database: str, tmp_path: Path) -> None:
    with running_mesh(database, tmp_path) as mesh:
        for task, parameters in KNOWN:
            assert ask(mesh, "POST", "/execute", {"task": task, "parameters": parameters})[0] == 200
        for method, path, body in LIFE:
            status, told = ask(mesh, method, path, body)
            assert status == 200
            answers = operation(bound_to(method, path))["responses"]["200"]["content"]["application/json"]
            schema = {**answers["schema"], "components": DOCUMENT["components"]}
            jsonschema_rs.validator_for(schema).validate(told)
        assert {bound_to(method, path) for method, path, _ in LIFE} == {*BINDINGS}
        run = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{mesh.address}/openapi.json"),
                *("--checks", ",".join(CHECKS), "-H", f"X-API-Key: {KEY}"),
                *("--phases", "examples,coverage,fuzzing", "--continue-on-failure"),
                *("--max-examples", EXAMPLES, "--generation-deterministic", "--no-color"),
                *("--report-har-path", str(tmp_path / "traffic.har")),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.contract.schemathesis_hooks",
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    report = run.stdout[:2_000] + "\n…\n" + run.stdout[-4_000:]
    assert run.returncode == 0, f"{report}\n{mesh.faults()}"

    traffic = Traffic.read(tmp_path / "traffic.har")
    # The document itself is what schemathesis reads, not an operation that it tests.
    assert {*traffic.by_path, "/openapi.json"} >= set(DOCUMENT["paths"]), report
    for path in ("/execute", "/run"):
        assert sum(traffic.by_path[path].values()) >= 1_000
        untried = {
            name: dict(traffic.by_task[path, name]) for name in TASKS if not served(traffic, path, name)
        }
        assert not untried, "tasks that were not seen both to answer and to refuse"


def template_of(path: str) -> str:
    """As the document has it."""
    if path in DOCUMENT["paths"]:
        return path
    for match in PATHS.find(path.encode()):
        return next(iter(match.bindings.values())).template.text
    return path


def bound_to(method: str, path: str) -> binding.Binding:
    """What a request means."""
    [match] = PATHS.find(path.partition("?")[0].encode())
    return match.bindings[method]


def served(traffic: Traffic, path: str, name: str) -> bool:
    """Whether a task has answered well and has refused something."""
    return {200, 400} <= set(traffic.by_task[path, name])
