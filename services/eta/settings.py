"""Settings of eta, beyond those all services share."""

from typing import ClassVar

from pydantic import Field

from services.mesh.settings import GrpcSettings, Port


class EtaSettings(GrpcSettings):
    """What eta reads from the environment, once."""

    service: ClassVar[str] = "eta"
    admin_place: ClassVar[int] = 0

    port: Port = Field(50051, validation_alias="WAYMESH_ETA_PORT")
    admin: Port | None = Field(None, validation_alias="WAYMESH_ETA_ADMIN_PORT")

    gps_batch: int = Field(1000, validation_alias="WAYMESH_ETA_GPS_BATCH", ge=1, le=10_000)
    dedupe_hours: float = Field(24.0, validation_alias="WAYMESH_ETA_DEDUPE_HOURS", gt=0, le=24 * 30)
    dedupe_fixes: int = Field(500_000, validation_alias="WAYMESH_ETA_DEDUPE_FIXES", ge=1000, le=100_000_000)
    keep_predictions_hours: float = Field(
        72.0, validation_alias="WAYMESH_ETA_KEEP_PREDICTIONS_HOURS", gt=0, le=24 * 365
    )
    learn_every_s: float = Field(30.0, validation_alias="WAYMESH_ETA_LEARN_EVERY_S", gt=0, le=3600)
    orders_wait_s: float = Field(20.0, validation_alias="WAYMESH_ETA_ORDERS_WAIT_S", ge=0, le=600)
