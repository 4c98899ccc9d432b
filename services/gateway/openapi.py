"""The OpenAPI 3.1 document, made of the tasks: a new task is in it without a word here."""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final

from services.gateway.responses import REQUEST_ID_HEADER, Errors, errors, needs_scope, request_id, response
from services.gateway.rest.binding import Binding
from services.gateway.rest.document import operations
from services.gateway.schema import Schema, Schemas, example
from services.gateway.settings import MAX_TIMEOUT_MS, GatewaySettings
from services.gateway.tasks import Task
from services.mesh.principal import ADMIN

VERSION: Final = "1"

_ABOUT: Final = (
    "Arrival times, routes and allocations. One endpoint, where the task says what to do; what many expect "
    "under a path of its own is there too."
)
_LAST_EVENT_ID: Final[Schema] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Of a stream of events: the id of the last one seen. What came after it is sent.",
    "schema": {"type": "string"},
}
_EVENTS: Final = (
    "Server-Sent Events, for tasks that have them and `Accept: text/event-stream`. The name of an event is "
    "that of what happened, its data the whole message on one line, its id what `Last-Event-ID` takes. "
    "`result` and `error` are the last; an `error` without an id is the gateway's, as of every answer."
)
_REQUEST_ID: Final[Schema] = {"type": "string", "description": "Of this request, in every log line and span."}
_DURATION: Final[Schema] = {"type": "number", "minimum": 0, "description": "Milliseconds."}


def document(tasks: Iterable[Task], bindings: Iterable[Binding], settings: GatewaySettings) -> dict[str, Any]:
    """The whole document for these tasks and paths, with the limits that are set."""
    tasks = list(tasks)
    schemas = Schemas(_comments())
    schemas.components |= _shared()
    bodies = [_body(task, schemas, settings.timeout_ms) for task in tasks]
    names = [f"{_camel(task.name)}Task" for task in tasks]
    schemas.components |= dict(zip(names, bodies, strict=True))
    schemas.components["Task"] = {
        "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in names],
        "discriminator": {
            "propertyName": "task",
            "mapping": {
                task.name: f"#/components/schemas/{name}" for task, name in zip(tasks, names, strict=True)
            },
        },
    }
    results = [schemas.message(task.response.DESCRIPTOR, "response") for task in tasks]  # type: ignore[arg-type]
    schemas.components["Result"] = {"description": "What the task answers.", "anyOf": results}
    streams = {task.stream.response: task.stream for task in tasks if task.stream is not None}
    events = [schemas.message(each.DESCRIPTOR, "response") for each in streams]  # type: ignore[arg-type]
    paths = _paths(tasks, events, settings) | operations(bindings, schemas, settings)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Waymesh",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _comments() -> dict[str, str]:
    """Of messages and fields, by full name."""
    found: dict[str, str] = json.loads(resources.files("waymesh").joinpath("comments.json").read_bytes())
    return found


def _paths(tasks: list[Task], events: list[Schema], settings: GatewaySettings) -> dict[str, Any]:
    failures = errors(settings)
    examples = {
        task.name: {
            "summary": task.summary,
            "value": {"task": task.name, "parameters": example(task.parameters.DESCRIPTOR)},
        }
        for task in tasks
    }
    return {
        "/execute": {
            "post": _operation("execute", "Run a task", "ExecuteAnswer", examples, events, failures)
        },
        "/run": {
            "post": _operation(
                "run", "Run a task by the runtime contract", "RunAnswer", examples, events, failures
            )
        },
        "/health": {
            "get": _health("health", "Whether requests are welcome, and what each check says", failures)
        },
        "/health/live": {"get": _health("live", "Whether the process is alive", failures, may_fail=False)},
        "/health/ready": {"get": _health("ready", "Whether requests are welcome", failures)},
        "/metrics": {"get": _page("metrics", "Metrics for Prometheus", "text/plain", failures)},
        "/openapi.json": {"get": _page("openapi", "This document", "application/json", failures)},
        "/docs": {
            "get": _page("docs", "This document for people, with a form to try it", "text/html", failures)
        },
    }


def _operation(
    name: str,
    summary: str,
    answer: str,
    examples: Mapping[str, Any],
    events: list[Schema],
    errors: Errors,
) -> Schema:
    content = {"schema": {"$ref": "#/components/schemas/Task"}, "examples": examples}
    return {
        "operationId": name,
        "summary": summary,
        "security": [{"key": []}],
        "parameters": [request_id(), _LAST_EVENT_ID],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": _done(answer, events),
            **{str(status): error for status, error in errors.items()},
        },
    }


def _done(answer: str, events: list[Schema]) -> Schema:
    done = response("The task was run", {"$ref": f"#/components/schemas/{answer}"})
    if events:
        # OpenAPI 3.1 has no schema for items of a stream: the extension says what `data` of each event is.
        done["content"]["text/event-stream"] = {
            "schema": {"type": "string", "description": _EVENTS},
            "x-event-data": {"oneOf": [*events, {"$ref": "#/components/schemas/Error"}]},
        }
    return done


def _health(name: str, summary: str, errors: Errors, *, may_fail: bool = True) -> Schema:
    responses = {"200": response("Yes", {"$ref": "#/components/schemas/Health"})}
    if may_fail:
        unfit = {"application/json": {"schema": {"$ref": "#/components/schemas/Unfit"}}}
        responses["503"] = {**errors[503], "content": unfit}
    responses["431"] = errors[431]
    return {"operationId": name, "summary": summary, "responses": responses}


def _page(name: str, summary: str, content_type: str, errors: Errors) -> Schema:
    shown = {"type": "object"} if content_type == "application/json" else {"type": "string"}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {
                "description": "The page",
                "headers": REQUEST_ID_HEADER,
                "content": {content_type: {"schema": shown}},
            },
            "431": errors[431],
        },
    }


def _body(task: Task, schemas: Schemas, timeout_ms: int) -> Schema:
    descriptor: Any = task.parameters.DESCRIPTOR
    parameters = schemas.message(descriptor, "request")
    required = ["task", "parameters"]
    if schemas.may_be_empty(descriptor):
        parameters = {"anyOf": [parameters, {"type": "null"}]}
        required = ["task"]
    about = task.summary if task.stream is None else f"{task.summary} Also as a stream of events."
    return {
        "type": "object",
        "description": f"{about} {needs_scope(task.name, admin=task.admin)}",
        "x-scope": ADMIN if task.admin else task.name,
        "properties": {
            "task": {"type": "string", "const": task.name},
            "parameters": parameters,
            "timeout_ms": {
                "type": ["number", "null"],
                "exclusiveMinimum": 0,
                "maximum": MAX_TIMEOUT_MS,
                "description": f"Milliseconds for everything; {timeout_ms:,} without.",
            },
        },
        "required": required,
        "additionalProperties": False,
    }


def _shared() -> dict[str, Schema]:
    """Schemas that no descriptor has."""
    success: Schema = {
        "request_id": _REQUEST_ID,
        "status": {"type": "string", "const": "success"},
        "result": {"$ref": "#/components/schemas/Result"},
        "duration_ms": _DURATION,
        "service": {"type": "string", "description": "Who answered."},
    }
    degraded: Schema = {"degraded": {"$ref": "#/components/schemas/Degraded"}}
    attempt: Schema = {"attempt": {"type": "integer", "minimum": 1, "description": "How often it was tried."}}
    theme: Schema = {"theme": {"type": "string"}}
    failure: Schema = {
        "error": {"type": "string", "description": "What went wrong, for people."},
        "request_id": _REQUEST_ID,
        "duration_ms": _DURATION,
        "service": {"type": "string", "description": "Who failed; `gateway` for what fails before routing."},
        "code": {"type": "string", "description": "Name of the gRPC code, such as INVALID_ARGUMENT."},
        "reason": {"type": "string", "description": "Such as ORDER_UNKNOWN; empty if there is none."},
        "details": {"type": "array", "items": {"$ref": "#/components/schemas/Violation"}},
    }
    health: Schema = {
        "status": {"type": "string", "enum": ["ok", "starting", "draining"]},
        "service": {"type": "string"},
        "checks": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    return {
        "ExecuteAnswer": _closed({**success, **attempt}, degraded),
        "RunAnswer": _closed(success, {**degraded, **theme}),
        "Error": _closed(failure, {}),
        "Violation": _closed(
            {
                "field": {
                    "type": "string",
                    "description": "Path from the body's root, such as parameters.location.lat.",
                },
                "description": {"type": "string"},
            },
            {},
        ),
        "Degraded": _closed(
            {
                "source": {"type": "string", "description": "Where the answer came from instead."},
                "reason": {"type": "string", "description": "Why the better one was not to be had."},
            },
            {},
        ),
        "Health": _closed(health, {}),
        "Unfit": _closed({**health, **failure}, {}),
    }


def _closed(required: Mapping[str, Schema], optional: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _camel(name: str) -> str:
    return "".join(part.title() for part in name.split("_"))
