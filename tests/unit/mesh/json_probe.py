"""A message type with a field of every kind that the contracts do not use (yet), made at run time."""

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)
from google.protobuf.message import Message

FD = descriptor_pb2.FieldDescriptorProto
ONE = [
    ("ratio", FD.TYPE_FLOAT, ""),
    ("signed", FD.TYPE_SINT32, ""),
    ("raw", FD.TYPE_BYTES, ""),
    ("colour", FD.TYPE_ENUM, "ProbeColour"),
    ("length_s", FD.TYPE_MESSAGE, ".google.protobuf.Duration"),
    ("anything", FD.TYPE_MESSAGE, ".google.protobuf.Value"),
    ("row", FD.TYPE_MESSAGE, ".google.protobuf.ListValue"),
    ("inner", FD.TYPE_MESSAGE, "Probe"),
]
LISTS = [
    ("flags", FD.TYPE_BOOL, ""),
    ("ratios", FD.TYPE_FLOAT, ""),
    ("sizes", FD.TYPE_DOUBLE, ""),
    ("times", FD.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
    ("raws", FD.TYPE_BYTES, ""),
    ("colours", FD.TYPE_ENUM, "ProbeColour"),
]
MAPS = [
    ("by_number", "ByNumberEntry", FD.TYPE_INT32, FD.TYPE_STRING, ""),
    ("by_truth", "ByTruthEntry", FD.TYPE_BOOL, FD.TYPE_MESSAGE, "Probe"),
    ("by_name", "ByNameEntry", FD.TYPE_STRING, FD.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
]


def probe_class(package: str, *extra: FD) -> type[Message]:
    """The message class `Probe` of this package, with `extra` fields besides."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.dependency.extend(known.DESCRIPTOR.name for known in (duration_pb2, struct_pb2, timestamp_pb2))
    colour = file.enum_type.add(name="ProbeColour")
    for number, value in enumerate(("PROBE_COLOUR_UNSPECIFIED", "PROBE_COLOUR_RED", "PLAIN")):
        colour.value.add(name=value, number=number)
    probe = file.message_type.add(name="Probe")
    for number, (name, kind, of) in enumerate(ONE, 1):
        _add(probe, package, name, number, kind, of, FD.LABEL_OPTIONAL)
    for number, (name, kind, of) in enumerate(LISTS, 20):
        _add(probe, package, name, number, kind, of, FD.LABEL_REPEATED)
    for number, (name, entry_name, key, kind, of) in enumerate(MAPS, 40):
        entry = probe.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _add(entry, package, "key", 1, key, "", FD.LABEL_OPTIONAL)
        _add(entry, package, "value", 2, kind, of, FD.LABEL_OPTIONAL)
        _add(probe, package, name, number, FD.TYPE_MESSAGE, f"Probe.{entry_name}", FD.LABEL_REPEATED)
    probe.field.extend(extra)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Probe"))


def _add(
    message: descriptor_pb2.DescriptorProto,
    package: str,
    name: str,
    number: int,
    kind: int,
    of: str,
    label: int,
) -> None:
    field = message.field.add(name=name, number=number, type=kind, label=label)  # type: ignore[arg-type]
    if of:
        field.type_name = of if of.startswith(".") else f".{package}.{of}"


PROBE = probe_class("probe")
