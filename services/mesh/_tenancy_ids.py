"""Ids and texts as services keep them, and as their tenant knows them: see `tenancy`."""

import re
from functools import lru_cache
from typing import Final

from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT

# What may not stand before an id that is told in a sentence: it would be a part of it.
_BEFORE: Final = r"(?<![A-Za-z0-9._/-])"


class ForeignTenantError(Exception):
    """Something of one tenant was about to be told to another. A fault of ours; nothing is told."""


def qualify(tenant: str, plain_id: str) -> str:
    """The id as services keep it."""
    if not plain_id or (tenant == DEFAULT_TENANT and "/" not in plain_id):
        return plain_id
    return f"{tenant}/{plain_id}"


def split(qualified: str) -> tuple[str, str]:
    """The tenant and the plain id."""
    tenant, slash, plain_id = qualified.partition("/")
    return (tenant, plain_id) if slash else (DEFAULT_TENANT, tenant)


def tenant_of(qualified: str) -> str:
    """Whose it is."""
    tenant, slash, _ = qualified.partition("/")
    return tenant if slash else DEFAULT_TENANT


def plain(qualified: str) -> str:
    """The id as its tenant knows it."""
    first, slash, rest = qualified.partition("/")
    return rest if slash else first


def told(qualified: str, tenant: str) -> str:
    """The plain id of something that is told to this tenant; to the mesh, whoever's it is."""
    owner, plain_id = split(qualified)
    if owner != tenant and tenant != MESH_TENANT:
        raise ForeignTenantError(f"an id of tenant {owner!r} is not told to tenant {tenant!r}")
    return plain_id


def plain_text(text: str, tenant: str) -> str:
    """A sentence about things of this tenant with their plain ids."""
    if tenant == MESH_TENANT or f"{tenant}/" not in text:
        return text
    return _mark(tenant).sub("", text)


@lru_cache(maxsize=256)
def _mark(tenant: str) -> re.Pattern[str]:
    # Of the default tenant only ids with a slash of their own have been marked.
    after = r"(?=[^\s/]*/)" if tenant == DEFAULT_TENANT else ""
    return re.compile(f"{_BEFORE}{re.escape(tenant)}/{after}")
