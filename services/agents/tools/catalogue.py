"""All tools there are."""

from typing import Final

from services.agents.tools.allocation import allocate_drivers
from services.agents.tools.delivery_time import calculate_delivery_time
from services.agents.tools.orders import get_order
from services.agents.tools.outcomes import recent_outcomes
from services.agents.tools.routing import optimize_route
from services.agents.tools.signature import Tool, tool
from services.agents.tools.similar import find_similar_deliveries
from services.agents.tools.traffic import get_traffic_data
from services.agents.tools.weather import weather

TOOLS: Final[tuple[Tool, ...]] = (
    tool(allocate_drivers, timeout_s=10.0, changes_things=True),
    tool(calculate_delivery_time),
    tool(find_similar_deliveries, timeout_s=8.0),
    tool(get_order),
    tool(get_traffic_data),
    tool(optimize_route, timeout_s=10.0),
    tool(recent_outcomes),
    tool(weather),
)
