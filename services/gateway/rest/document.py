"""The paths of RPCs in the OpenAPI document."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from services.gateway.responses import errors, needs_scope, request_id, response
from services.gateway.rest.binding import WHOLE, Binding, field_at
from services.gateway.rest.parameters import of_query
from services.gateway.schema import Schema, Schemas
from services.gateway.settings import GatewaySettings
from services.mesh.principal import ADMIN

# What only tasks answer.
_NOT_HERE = frozenset({406})
_OF_BODIES = frozenset({415})


def operations(bindings: Iterable[Binding], schemas: Schemas, settings: GatewaySettings) -> dict[str, Any]:
    """By path and method."""
    failures = {status: each for status, each in errors(settings).items() if status not in _NOT_HERE}
    paths: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for binding in bindings:
        seen[binding.name] += 1
        count = seen[binding.name]
        operation: Schema = {
            "operationId": binding.name if count == 1 else f"{binding.name}_{count}",
            "summary": binding.summary,
            "description": needs_scope(binding.name, admin=binding.admin),
            "x-scope": ADMIN if binding.admin else binding.name,
            "security": [{"key": []}],
            "parameters": [*_parameters(binding, schemas), request_id()],
        }
        if binding.body:
            operation["requestBody"] = _body(binding, schemas)
        operation["responses"] = {
            "200": response("Done", _result(binding, schemas)),
            **{
                str(status): each
                for status, each in failures.items()
                if binding.body or status not in _OF_BODIES
            },
        }
        paths.setdefault(binding.template.text, {})[binding.method.lower()] = operation
    return paths


def _parameters(binding: Binding, schemas: Schemas) -> list[Schema]:
    request: Any = binding.request.DESCRIPTOR
    found = []
    for name in binding.template.fields:
        field = field_at(request, name)
        assert field is not None  # as the binding has made sure
        found.append({"name": name, "in": "path", "required": True, **schemas.parameter(field)})
    for name, field in of_query(binding):
        needed = "." not in name and schemas.needs(field)
        found.append({"name": name, "in": "query", "required": needed, **schemas.parameter(field)})
    return found


def _body(binding: Binding, schemas: Schemas) -> Schema:
    request: Any = binding.request.DESCRIPTOR
    if binding.body == WHOLE:
        schema, needed = schemas.rest(request, without=frozenset(binding.template.fields))
    else:
        field = request.fields_by_name[binding.body]
        needed = schemas.needs(field)
        schema = schemas.field(field, "request")
    return {"required": needed, "content": {"application/json": {"schema": schema}}}


def _result(binding: Binding, schemas: Schemas) -> Schema:
    answered: Any = binding.response.DESCRIPTOR
    if not binding.result:
        return schemas.message(answered, "response")
    field = answered.fields_by_name[binding.result]
    schema = schemas.field(field, "response")
    return {"anyOf": [schema, {"type": "null"}]} if field.has_presence else schema
