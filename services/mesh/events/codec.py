"""Values of events between bytes and messages: JSON (the one dialect) or protobuf, by content type."""

from typing import Final, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto

from services.mesh import json_codec
from services.mesh.errors import InvalidArgument
from services.mesh.events.bus import JSON, PROTOBUF, PoisonMessage, Record
from services.mesh.events.cloud_events import UNKNOWN_VERSION

P = TypeVar("P", bound=Proto)

_PROTOBUF: Final = frozenset({PROTOBUF, "application/x-protobuf", "application/vnd.google.protobuf"})
# An event with its attributes in the value, or several: these are read from headers here.
_STRUCTURED: Final = "application/cloudevents"
_OURS: Final = "waymesh."
_JSON: Final = frozenset({JSON, "", "text/json"})


def media_type(content_type: str) -> str:
    """The content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether values of this content type are JSON; no content type means JSON."""
    kind = media_type(content_type)
    return kind in _JSON or kind.endswith("+json")


def decode_value(record: Record, cls: type[P]) -> P:
    """The value as a message; fields this version does not know are ignored. PoisonMessage if it is none.

    An event whose type is another of ours, such as one of a later package (`.v2.`), is none either: the same
    bytes mean something else there. So is one by another version of CloudEvents, and one without a value.
    The rules of the contract are not checked here: what breaks them may still be worth keeping.
    """
    wanted = cls.DESCRIPTOR.full_name
    if record.type != wanted and record.type.startswith(_OURS):
        raise PoisonMessage(record, f"its type is {record.type}, not {wanted}")
    if UNKNOWN_VERSION in record.headers:
        raise PoisonMessage(record, f"by CloudEvents {record.headers[UNKNOWN_VERSION]}: only 1.x is known")
    if not record.value:
        raise PoisonMessage(record, f"not a {wanted}: it has no value")
    if media_type(record.content_type) in _PROTOBUF:
        message = cls()
        try:
            message.ParseFromString(record.value)
        except DecodeError as error:
            raise PoisonMessage(record, f"not a {cls.DESCRIPTOR.full_name} in protobuf: {error}") from error
        return message
    if not is_json(record.content_type) or media_type(record.content_type).startswith(_STRUCTURED):
        raise PoisonMessage(record, f"content type {record.content_type!r} is neither JSON nor protobuf")
    try:
        return json_codec.decode(cls, record.value, unknown="ignore")
    except InvalidArgument as error:
        raise PoisonMessage(record, f"not a {cls.DESCRIPTOR.full_name} in JSON: {error.message}") from error


def encode_value(message: Proto, content_type: str = PROTOBUF) -> bytes:
    """The bytes of a message. ValueError for a content type that is neither JSON nor protobuf."""
    if media_type(content_type) in _PROTOBUF:
        return message.SerializeToString()
    if is_json(content_type):
        return json_codec.encode(message)
    raise ValueError(f"content type {content_type!r} is neither JSON nor protobuf")
