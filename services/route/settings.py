"""Settings of route, beyond those all services share."""

from typing import ClassVar

from pydantic import Field

from services.mesh.settings import GrpcSettings, Port


class RouteSettings(GrpcSettings):
    """What route reads from the environment, once."""

    service: ClassVar[str] = "route"
    admin_place: ClassVar[int] = 1

    port: Port = Field(50052, validation_alias="WAYMESH_ROUTE_PORT")
    admin: Port | None = Field(None, validation_alias="WAYMESH_ROUTE_ADMIN_PORT")

    allocation_tick_s: float = Field(10.0, validation_alias="WAYMESH_ALLOCATION_TICK_S", gt=0, le=3600)
    allocation_gap_s: float = Field(1.0, validation_alias="WAYMESH_ALLOCATION_GAP_S", ge=0, le=3600)
    allocation_max_orders: int = Field(500, validation_alias="WAYMESH_ALLOCATION_MAX_ORDERS", ge=1, le=1000)
    hold_wait_s: float = Field(600.0, validation_alias="WAYMESH_HOLD_WAIT_S", ge=0, le=86_400)
    courier_silent_s: float = Field(900.0, validation_alias="WAYMESH_COURIER_SILENT_S", gt=0, le=86_400)
    reroute_gap_s: float = Field(30.0, validation_alias="WAYMESH_REROUTE_GAP_S", ge=0, le=3600)
    reroute_saving_s: float = Field(30.0, validation_alias="WAYMESH_REROUTE_SAVING_S", ge=0, le=3600)
    keep_orders_days: float = Field(30.0, validation_alias="WAYMESH_KEEP_ORDERS_DAYS", gt=0, le=3650)
    eta_timeout_s: float = Field(1.0, validation_alias="WAYMESH_ROUTE_ETA_TIMEOUT_S", gt=0, le=60)
