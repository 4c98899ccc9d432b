"""What questions the engines answer by themselves, in the words of whoever asks."""

from typing import Final

from services.agents.engines.words import listed

# Each with a question of its kind.
OFFERS: Final[tuple[tuple[str, str], ...]] = (
    ("where an order is", "Where is order_456?"),
    ("who carries it", "Who carries order_456?"),
    ("when it arrives and why then", "When does order_456 arrive, and why then?"),
    ("who could carry it", "Who could carry order_456?"),
    ("what stops a courier makes", "What stops does driver_123 make?"),
    ("how long the way between places takes", "How long is the way from 60.17,24.94 to 60.18,24.96?"),
    ("how long a delivery over some distance takes", "How long does a delivery over 3 km take?"),
    ("how deliveries of a merchant went", "How did deliveries of merchant m-17 go?"),
    ("how deliveries in an area went", "How did deliveries in area centre go?"),
    ("how deliveries at a time of day went", "How did deliveries at 19:00 go?"),
    ("what the weather is like at a place", "What is the weather like at 60.17,24.94?"),
    ("what agents did of late", "What did agents do of late?"),
)
HELP: Final = (
    f"I can say {listed([offer for offer, _ in OFFERS])}."
    " Name orders, couriers and merchants by their ids, and places by their coordinates."
)
NOT_UNDERSTOOD: Final = "I did not understand that."
