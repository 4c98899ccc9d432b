"""Names of windows of all agents together: those of one tenant, and those of the mesh.

Agents of a tenant are known by qualified names. The agent with the empty name, qualified by the tenant,
stands for all of them.
"""

from typing import Final

from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT


def total_of(tenant: str) -> str:
    """What stands for all agents of a tenant, or of the mesh: `acme/`; of the default tenant nothing."""
    return "" if tenant == DEFAULT_TENANT else f"{tenant}/"


def is_total(agent_name: str) -> bool:
    """Whether a qualified name stands for all agents of a tenant rather than for one."""
    return not agent_name or (agent_name[-1] == "/" and agent_name.index("/") == len(agent_name) - 1)


# Of all agents of all tenants. Where there is no tenant but the default one, its own is the same.
MESH_TOTAL: Final = total_of(MESH_TENANT)
