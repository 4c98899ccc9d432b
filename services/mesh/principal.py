"""For whom the work at hand is done: the tenant and the API key of the request, in a context variable.

The gateway sets it from the key that a request came with; within the mesh it travels as metadata. It says who
asks, not what he may do: that is for the service that owns the data, which keeps tenants apart by it.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from services.mesh.errors import PermissionDenied

TENANT_KEY: Final = "x-waymesh-tenant"
API_KEY_KEY: Final = "x-waymesh-key"
CALLER_KEY: Final = "x-waymesh-caller"
SCOPES_KEY: Final = "x-waymesh-scopes"

# What the edge vouches for with a call of a task for operators, and with no other call.
ADMIN: Final = "admin"

DEFAULT_TENANT: Final = "default"
MESH_TENANT: Final = "*"
"""Stands for all tenants at once: ids go along as services keep them, and lists leave out nothing."""
MAX_NAME: Final = 128

_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY: Final = re.compile(r"[0-9a-f]{12}")
# What goes along as it is of a name, besides letters, digits and `-._~`; the rest is percent-encoded.
_PLAIN: Final = "!#$&'()*+/:@^`|"
# No name is longer than this on the way: four bytes a character, three digits a byte.
_MAX_SENT: Final = MAX_NAME * 12


@dataclass(frozen=True, slots=True)
class Principal:
    """`tenant` owns what is asked for; `key` is the API key's id, 12 hexadecimal digits, empty where none was
    used; `name` is shown to people as who did something. `admin`: the edge says that the key has this scope.

    `headers` is what goes along with each call that is made for somebody: nothing for the default.
    """

    tenant: str = DEFAULT_TENANT
    key: str = ""
    name: str = ""
    admin: bool = False
    headers: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", tuple(_headers(self)))


def _headers(principal: Principal) -> Iterator[tuple[str, str]]:
    tenant = principal.tenant
    if tenant == MESH_TENANT or (tenant != DEFAULT_TENANT and is_tenant(tenant)):
        yield TENANT_KEY, tenant
    if _KEY.fullmatch(principal.key) is not None:
        yield API_KEY_KEY, principal.key
    if is_name(principal.name):
        yield CALLER_KEY, quote(principal.name, safe=_PLAIN)
    if principal.admin:
        yield SCOPES_KEY, ADMIN


def is_tenant(given: object) -> bool:
    """Whether this may name a tenant: 1 to 64 letters, digits, `.`, `_`, `-`; the first a letter or digit."""
    return isinstance(given, str) and _TENANT.fullmatch(given) is not None


def is_name(given: object) -> bool:
    """Whether this may be shown as a name: 1 to 128 characters, each of which can be seen."""
    return isinstance(given, str) and 1 <= len(given) <= MAX_NAME and given.isprintable()


DEFAULT: Final = Principal()
MESH: Final = Principal(MESH_TENANT)
"""The mesh itself, at work for several tenants at once. Only services of the mesh may say so."""

_current: ContextVar[Principal] = ContextVar("waymesh_principal", default=DEFAULT)
current = _current.get
set_current = _current.set
reset_current = _current.reset


@contextmanager
def acting(principal: Principal) -> Iterator[None]:
    """Calls that are made within are made for this one, such as `MESH`, whoever is served around them."""
    token = _current.set(principal)
    try:
        yield
    finally:
        _current.reset(token)


def of_metadata(metadata: Mapping[str, str | bytes]) -> Principal:
    """Who a call is made for. A key or name that is not well-formed counts as not sent.

    Raises PermissionDenied for such a tenant: nobody gets another's rights by a slip. Whether the caller may
    act for the mesh is for whoever knows the caller to say.
    """
    tenant = metadata.get(TENANT_KEY)
    key = metadata.get(API_KEY_KEY)
    caller = metadata.get(CALLER_KEY)
    scopes = metadata.get(SCOPES_KEY)
    if tenant is None and key is None and caller is None and scopes is None:
        return DEFAULT
    return _read(tenant, key, caller, scopes)


@lru_cache(maxsize=1024)
def _read(
    tenant: str | bytes | None,
    key: str | bytes | None,
    caller: str | bytes | None,
    scopes: str | bytes | None,
) -> Principal:
    if tenant is None:
        tenant = DEFAULT_TENANT
    elif tenant != MESH_TENANT and (not isinstance(tenant, str) or not is_tenant(tenant)):
        raise PermissionDenied("the tenant that this call is made for cannot be read")
    return Principal(
        tenant,
        key if isinstance(key, str) and _KEY.fullmatch(key) is not None else "",
        _name(caller),
        scopes == ADMIN,
    )


def _name(sent: str | bytes | None) -> str:
    if not isinstance(sent, str) or len(sent) > _MAX_SENT:
        return ""
    try:
        name = unquote(sent, errors="strict")
    except UnicodeDecodeError:
        return ""
    return name if is_name(name) else ""
