"""What agents can do besides talking: typed functions over the stubs of eta, route and feedback."""

from services.agents.tools.scope import Scope
from services.agents.tools.toolbox import Toolbox, ToolOutcome
from services.agents.tools.weather_api import Observation, OpenWeatherMap, WeatherSource

__all__ = ["Observation", "OpenWeatherMap", "Scope", "ToolOutcome", "Toolbox", "WeatherSource"]
