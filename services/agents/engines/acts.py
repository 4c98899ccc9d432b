"""Requests to act. Words alone change nothing: they are told which task does what they ask for."""

import re
from typing import Final

# Where a request begins: `Cancel …`, `Please cancel …`, `Can you cancel …?`, `… and then cancel it`.
_HEAD: Final = (
    r"(?:^\W*|[.!?;:]\s+|,\s*(?:and\s+|then\s+|just\s+)*|\band\s+(?:then\s+)?"
    r"|\b(?:please|just|let's|let us|go ahead and)\s+"
    r"|\b(?:can|could|would|will)\s+you\s+(?:please\s+|just\s+)?"
    r"|\b(?:want|need|like)\s+(?:you\s+)?to\s+)"
)
# What somebody wants told is no act.
_NOT_TOLD: Final = r"(?!\s+(?:me|us)\b)"


def _asked_to(verbs: str) -> re.Pattern[str]:
    return re.compile(rf"{_HEAD}(?:{verbs})\b{_NOT_TOLD}", re.IGNORECASE)


_ACTS: Final = (
    (_asked_to("cancel|delete|drop|stop|abort|withdraw|refund"), "cancel_order cancels orders"),
    (
        _asked_to("give|assign|re-?assign|allocate|dispatch|send|move|hand|transfer|swap|take"),
        "allocate_drivers gives orders to couriers",
    ),
    (_asked_to("plan|schedule"), "plan_delivery plans deliveries"),
    (
        _asked_to(
            "change|update|edit|set|mark|postpone|delay|reschedule|prioriti[sz]e|add|create|place|make|put"
            "|rename|hurry|speed up|reopen"
        ),
        "upsert_orders and upsert_couriers change orders and couriers",
    ),
)


def refused_act(question: str) -> str:
    """That nothing was changed, and which task does what is asked for; empty if nothing is to be done."""
    for asked, instead in _ACTS:
        if asked.search(question):
            return f"Nothing was changed: I only answer questions; the task {instead}."
    return ""
