"""The id of the request that the work at hand serves: one form for HTTP, gRPC and events.

The id itself lives in the context variable of the logs (logs.request_id).
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeGuard

from services.mesh import logs
from services.mesh.redact import redact_forms

KEY: Final = "x-request-id"
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
# What is let through from outside: it ends up in logs and headers.
_VALID: Final = re.compile(r"[\x21-\x7e]{1,128}")


def is_valid(given: object) -> TypeGuard[str]:
    """Whether this may be an id. What looks like a secret may not: an id is written everywhere."""
    return isinstance(given, str) and _VALID.fullmatch(given) is not None and redact_forms(given) == given


def new_request_id() -> str:
    """A random id, in the form of a UUID."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def headers() -> Mapping[str, str]:
    """What goes along with an event that is made now; the same object for all of one request."""
    request_id = logs.request_id.get()
    return headers_of(request_id) if request_id else NO_HEADERS


@lru_cache(maxsize=256)
def headers_of(request_id: str) -> Mapping[str, str]:
    """What goes along with an event of this request; nothing if it is of none."""
    return MappingProxyType({KEY: request_id}) if is_valid(request_id) else NO_HEADERS


@contextmanager
def serving(request_id: str) -> Iterator[None]:
    """What is done within serves this request; none, if the id is empty, whatever is served around it."""
    token = logs.request_id.set(request_id)
    try:
        yield
    finally:
        logs.request_id.reset(token)
