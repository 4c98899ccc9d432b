"""Custom resources against their definitions, strict: what these do not know would be dropped."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator

from tools.k8s.crds import Kind, definitions
from tools.k8s.render import Document, title
from tools.k8s.schemas import is_builtin

_METADATA: Final = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def faults(documents: Sequence[Document]) -> list[str]:
    """What is wrong with the custom resources among them, a line each. Raises DeployError."""
    found: list[str] = []
    for document in documents:
        if is_builtin(document):
            continue
        kind = (str(document.get("apiVersion")), str(document.get("kind")))
        if kind not in definitions():
            found.append(f"{title(document)}: there is no definition of {kind[1]} in {kind[0]}")
            continue
        found += [
            f"{title(document)}: {error.json_path}: {error.message[:300]}"
            for error in _validator(kind).iter_errors(document)
        ]
    return found


@cache
def _validator(kind: Kind) -> Draft202012Validator:
    schema = _strict(definitions()[kind])
    schema["properties"]["metadata"] = _METADATA
    schema["properties"]["apiVersion"] = {"const": kind[0]}
    schema["properties"]["kind"] = {"const": kind[1]}
    return Draft202012Validator(schema)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what Kubernetes means by it: unknown fields are none, and its own keywords.

    Rules in its expression language (x-kubernetes-validations) are the API server's to judge.
    """
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
        made.pop("anyOf", None)
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if "properties" in schema:
        made["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for below in ("items", "additionalProperties"):
        if isinstance(schema.get(below), dict):
            made[below] = _strict(schema[below])
    return made
