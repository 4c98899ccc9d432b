"""Under which names outcomes tell of agents' runs: what leaves them and what looks for them agree here."""

from typing import Final

from services.agents.builtin import BUILT_IN

# An agent may be called as a service is, whose milliseconds are not to be judged with a model's seconds.
PREFIX: Final = "agents."
BUILT_IN_NAMES: Final = tuple(one.spec.name for one in BUILT_IN)
SERVICES: Final = ("eta", "route", "feedback", "gateway", "agents")
# Steps of a plan that are no service's.
STEPS: Final = ("allocation", "critique")
# Waymesh's own; every other agent belongs to somebody.
OWN: Final = frozenset({*SERVICES, *STEPS, *(PREFIX + name for name in BUILT_IN_NAMES)})


def recorded_name(name: str) -> str:
    """What outcomes call it. What a service and an agent are both called is the service."""
    return PREFIX + name if name in BUILT_IN_NAMES and name not in OWN else name
