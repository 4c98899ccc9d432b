"""The OpenAPI 3.1 document, made of the tasks: a new task is in it without a word here."""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final

from services.gateway.schema import Schema, Schemas, example
from services.gateway.settings import MAX_TIMEOUT_MS, GatewaySettings
from services.gateway.tasks import Task

VERSION: Final = "1"

Errors = Mapping[int, Schema]

# `body` and `head` are sizes that are set.
_ERRORS: Final[Mapping[int, str]] = {
    400: "Not JSON, a wrong type, an unknown field, or a rule that is broken: see `details`",
    401: "The API key is missing or not valid",
    403: "Not permitted",
    404: "The task, or what the parameters name, is not known",
    409: "The same id came before with other content, or a concurrent change got in between",
    413: "The body is larger than {body}",
    415: "The content type is not application/json",
    429: "The key's rate is used up",
    431: "The headers are larger than {head}",
    500: "A fault of ours; our logs hold the details under the request's id",
    501: "The service behind does not know this task",
    503: "Not now; the same request may succeed later",
    504: "The time for the request is used up",
}
_RETRY_AFTER: Final = frozenset({429, 503})
_REQUEST_ID_HEADER: Final[Schema] = {
    "X-Request-Id": {
        "description": "The one that came with the request, or a new one.",
        "required": True,
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER_HEADER: Final[Schema] = {
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_REQUEST_ID: Final[Schema] = {"type": "string", "description": "Of this request, in every log line and span."}
_DURATION: Final[Schema] = {"type": "number", "minimum": 0, "description": "Milliseconds."}


def document(tasks: Iterable[Task], settings: GatewaySettings) -> dict[str, Any]:
    """The whole document for these tasks, with the limits that are set."""
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
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Waymesh",
            "version": VERSION,
            "description": "Arrival times, routes and allocations. One endpoint; the task says what to do.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(tasks, settings),
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _comments() -> dict[str, str]:
    """Of messages and fields, by full name."""
    found: dict[str, str] = json.loads(resources.files("waymesh").joinpath("comments.json").read_bytes())
    return found


def _paths(tasks: list[Task], settings: GatewaySettings) -> dict[str, Any]:
    sizes = {"body": _size(settings.max_body_bytes), "head": _size(settings.max_head_bytes)}
    errors = {
        status: _error(status, description.format_map(sizes)) for status, description in _ERRORS.items()
    }
    examples = {
        task.name: {
            "summary": task.summary,
            "value": {"task": task.name, "parameters": example(task.parameters.DESCRIPTOR)},
        }
        for task in tasks
    }
    return {
        "/execute": {"post": _operation("execute", "Run a task", "ExecuteAnswer", examples, errors)},
        "/run": {
            "post": _operation("run", "Run a task by the runtime contract", "RunAnswer", examples, errors)
        },
        "/health": {
            "get": _health("health", "Whether requests are welcome, and what each check says", errors)
        },
        "/health/live": {"get": _health("live", "Whether the process is alive", errors, may_fail=False)},
        "/health/ready": {"get": _health("ready", "Whether requests are welcome", errors)},
        "/metrics": {"get": _page("metrics", "Metrics for Prometheus", "text/plain", errors)},
        "/openapi.json": {"get": _page("openapi", "This document", "application/json", errors)},
        "/docs": {
            "get": _page("docs", "This document for people, with a form to try it", "text/html", errors)
        },
    }


def _operation(name: str, summary: str, answer: str, examples: Mapping[str, Any], errors: Errors) -> Schema:
    content = {"schema": {"$ref": "#/components/schemas/Task"}, "examples": examples}
    return {
        "operationId": name,
        "summary": summary,
        "security": [{"key": []}],
        "parameters": [
            {
                "name": "X-Request-Id",
                "in": "header",
                "description": "For tracing only: 1 to 128 visible characters; else a new one is made.",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": _response("The task was run", f"#/components/schemas/{answer}"),
            **{str(status): error for status, error in errors.items()},
        },
    }


def _health(name: str, summary: str, errors: Errors, *, may_fail: bool = True) -> Schema:
    responses = {"200": _response("Yes", "#/components/schemas/Health")}
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
                "headers": _REQUEST_ID_HEADER,
                "content": {content_type: {"schema": shown}},
            },
            "431": errors[431],
        },
    }


def _response(description: str, reference: str) -> Schema:
    return {
        "description": description,
        "headers": _REQUEST_ID_HEADER,
        "content": {"application/json": {"schema": {"$ref": reference}}},
    }


def _error(status: int, description: str) -> Schema:
    response = _response(description, "#/components/schemas/Error")
    if status in _RETRY_AFTER:
        response["headers"] = {**_REQUEST_ID_HEADER, **_RETRY_AFTER_HEADER}
    return response


def _size(count: int) -> str:
    """Bytes for people, never rounded: `2 MiB`, `1,000,001 bytes`."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if count % (1 << shift) == 0:
            return f"{count >> shift:,} {unit}"
    return f"{count:,} bytes"


def _body(task: Task, schemas: Schemas, timeout_ms: int) -> Schema:
    descriptor: Any = task.parameters.DESCRIPTOR
    parameters = schemas.message(descriptor, "request")
    required = ["task", "parameters"]
    if schemas.may_be_empty(descriptor):
        parameters = {"anyOf": [parameters, {"type": "null"}]}
        required = ["task"]
    return {
        "type": "object",
        "description": task.summary,
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
