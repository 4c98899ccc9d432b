"""Settings of feedback, beyond those all services share."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from services.feedback.metrics_spec import WindowSpec, parse_windows
from services.mesh.settings import GrpcSettings, Port


def _windows(value: str) -> str:
    parse_windows(value)
    return value


class FeedbackSettings(GrpcSettings):
    """What feedback reads from the environment, once."""

    admin_place: ClassVar[int] = 2

    port: Port = Field(50053, validation_alias="WAYMESH_FEEDBACK_PORT")
    admin: Port | None = Field(None, validation_alias="WAYMESH_FEEDBACK_ADMIN_PORT")

    outcome_retention_days: int = Field(30, validation_alias="WAYMESH_OUTCOME_RETENTION_DAYS", ge=1, le=3650)
    metric_windows: Annotated[str, AfterValidator(_windows)] = Field(
        "60s,300s/60s", validation_alias="WAYMESH_METRIC_WINDOWS", min_length=1
    )
    metric_lateness_s: float = Field(600.0, validation_alias="WAYMESH_METRIC_LATENESS_S", ge=0, le=86_400)

    @property
    def windows(self) -> tuple[WindowSpec, ...]:
        """The windows that metrics are made of."""
        return parse_windows(self.metric_windows)
