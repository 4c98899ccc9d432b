"""Settings of feedback, beyond those all services share."""

from pydantic import Field

from services.mesh.settings import MeshSettings, Port


class FeedbackSettings(MeshSettings):
    """What feedback reads from the environment, once."""

    port: Port = Field(50053, validation_alias="WAYMESH_FEEDBACK_PORT")
    admin: Port | None = Field(None, validation_alias="WAYMESH_FEEDBACK_ADMIN_PORT")

    @property
    def admin_listen(self) -> int:
        """Port of metrics and health: its own, or the third above the common base."""
        return self.admin_port(2) if self.admin is None else self.admin
