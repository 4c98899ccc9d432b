"""What values of each kind the JSON dialect takes: for the codec, and for the document that describes it."""

from collections.abc import Mapping
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

DOUBLE_MAX: Final = 1.7976931348623157e308
FLOAT_MAX: Final = 3.4028234663852886e38
# google.protobuf.Duration's own limit: 10,000 years.
DURATION_MAX_S: Final = 315_576_000_000
# A plain JSON object takes three levels of a binary message (Struct, map entry, Value) and a parser of
# protobuf stops at 100; the rest is left to the messages around it.
PLAIN_DEPTH: Final = 28
# Values within a plain JSON object, which are slower to look at than what a contract describes.
PLAIN_VALUES: Final = 10_000
# Of the whole text, padding included.
BASE64: Final = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
# Kinds of fields that are integers in JSON, lowest and highest; those of 64 bits have no form there.
INTEGERS: Final[Mapping[int, tuple[int, int]]] = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SFIXED32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_FIXED32: (0, 2**32 - 1),
}
