"""What a tool has at hand: the services it may ask, the clock, and what its run may see."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TOOL_REFUSED

from services.agents.tools.scope import Scope
from services.agents.tools.weather_api import WeatherSource
from services.mesh.errors import PermissionDenied

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Desk:
    """One call's surroundings. The stubs are async; their calls raise MeshErrors."""

    tool: str
    scope: Scope
    eta: Any
    route: Any
    feedback: Any
    weather: WeatherSource | None
    clock: Clock

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self.clock(), UTC)

    def open_order(self, order_id: str) -> None:
        """Raises PermissionDenied unless the run may look at the order. Nobody is asked: nothing shows."""
        if not self.scope.may_see_order(order_id):
            raise self.refused("an order")

    def open_driver(self, driver_id: str) -> None:
        """Raises PermissionDenied unless the run may look at the courier."""
        if not self.scope.may_see_driver(driver_id):
            raise self.refused("a courier")

    def open_name(self, name: str, what: str) -> None:
        """Raises PermissionDenied unless the run may ask about a merchant, area or agent."""
        if not self.scope.may_name(name):
            raise self.refused(what)

    def refused(self, what: str) -> PermissionDenied:
        """The refusal, the same whether what was asked for exists or not."""
        return PermissionDenied(
            f"{self.tool} may only look at {what} that the caller named, or that an answer for it names",
            reason=ERROR_REASON_TOOL_REFUSED,
            metadata={"tool": self.tool},
        )


def degraded(degradation: Degradation) -> dict[str, str]:
    """A degradation as tools tell it."""
    return {"source": degradation.source, "reason": degradation.reason}
