"""Rules of the contracts that buf does not check."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import waymesh
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from waymesh.mesh.v1 import degradation_pb2
from waymesh.task.v1 import task_pb2

IDEMPOTENT = {
    descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
    descriptor_pb2.MethodOptions.IDEMPOTENT,
}


def files() -> Iterator[FileDescriptor]:
    # Namespace packages: pkgutil would not descend into them.
    root = Path(next(iter(waymesh.__path__)))
    for path in sorted(root.rglob("*_pb2.py")):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        yield importlib.import_module(module).DESCRIPTOR


def messages() -> Iterator[Descriptor]:
    def within(message: Descriptor) -> Iterator[Descriptor]:
        yield message
        for nested in message.nested_types:
            yield from within(nested)

    for file in files():
        for message in file.message_types_by_name.values():
            yield from within(message)


def methods() -> Iterator[MethodDescriptor]:
    for file in files():
        for service in file.services_by_name.values():
            yield from service.methods


def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def test_walk_finds_the_contracts() -> None:
    assert len(list(files())) >= 17
    assert len(list(methods())) >= 19


def test_no_field_has_64_bit_integers_since_json_cannot_carry_them() -> None:
    wide = {
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED64,
        FieldDescriptor.TYPE_SINT64,
    }
    assert [f.full_name for m in messages() for f in m.fields if f.type in wide] == []


@pytest.mark.parametrize("method", list(methods()), ids=lambda m: m.name)
def test_a_task_is_a_unary_rpc_named_in_snake_case_with_a_body_field_that_exists(
    method: MethodDescriptor,
) -> None:
    options = method.GetOptions()
    if not options.HasExtension(task_pb2.task):
        assert method.client_streaming or method.server_streaming, f"{method.name} is unary but no task"
        return
    task = options.Extensions[task_pb2.task]
    assert not method.client_streaming
    assert not method.server_streaming
    assert task.name == snake_case(method.name)
    assert task.summary
    if task.body_field:
        assert method.input_type.fields_by_name[task.body_field].message_type is not None


def test_task_names_are_unique() -> None:
    names = [m.GetOptions().Extensions[task_pb2.task].name for m in methods()]
    tasks = [name for name in names if name]
    assert len(tasks) == len(set(tasks))


@pytest.mark.parametrize("method", list(methods()), ids=lambda m: m.name)
def test_every_rpc_says_whether_it_may_be_repeated(method: MethodDescriptor) -> None:
    assert method.GetOptions().idempotency_level in IDEMPOTENT


def test_a_degradation_is_always_in_the_field_degradation() -> None:
    found = [
        field.name
        for message in messages()
        for field in message.fields
        if field.message_type is not None
        and field.message_type.full_name == degradation_pb2.Degradation.DESCRIPTOR.full_name
    ]
    assert set(found) == {"degradation"}
