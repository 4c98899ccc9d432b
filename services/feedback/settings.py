"""Settings of feedback, beyond those all services share."""

from typing import ClassVar

from pydantic import Field

from services.mesh.settings import GrpcSettings, Port


class FeedbackSettings(GrpcSettings):
    """What feedback reads from the environment, once."""

    admin_place: ClassVar[int] = 2

    port: Port = Field(50053, validation_alias="WAYMESH_FEEDBACK_PORT")
    admin: Port | None = Field(None, validation_alias="WAYMESH_FEEDBACK_ADMIN_PORT")

    outcome_retention_days: int = Field(30, validation_alias="WAYMESH_OUTCOME_RETENTION_DAYS", ge=1, le=3650)
