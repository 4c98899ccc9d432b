"""Orders that do not wait for a courier: route gives them to nobody, and says only how they stand."""

from typing import Final

from services.agents.engines.words import order

# By the reasons of route's answers: the status of the order.
_STANDING: Final = {
    "is assigned": "has a courier already",
    "is picked_up": "is on its way to the customer already",
    "is delivered": "was delivered",
    "is cancelled": "was cancelled",
    "not known": "is not known",
}


def standing(order_id: str, reason: str) -> str:
    """How the order stands, if that is why it was given to nobody; else empty."""
    told = _STANDING.get(reason)
    return f"{order(order_id)} {told}" if told else ""
