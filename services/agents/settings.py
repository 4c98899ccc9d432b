"""Settings of agents, beyond those all services share."""

from typing import ClassVar

from pydantic import Field

from services.mesh.settings import GrpcSettings, Port


class AgentsSettings(GrpcSettings):
    """What agents reads from the environment, once."""

    admin_place: ClassVar[int] = 3

    port: Port = Field(50054, validation_alias="WAYMESH_AGENTS_PORT")
    admin: Port | None = Field(None, validation_alias="WAYMESH_AGENTS_ADMIN_PORT")
