"""What the tools of one run may look at: what the caller's own words open, and nothing else.

An order or courier is open to a run if the caller named it, or if an allowed answer named it in a typed
field. What merchants, customers and couriers write opens nothing, whatever it says.
"""

import re
from dataclasses import dataclass, field
from typing import Final

# An id that is shown to a model, or learned, looks like one; what reads like a sentence is no id.
_ID: Final = re.compile(r"[\w.:@/#+~-]{1,128}")
# Between two word characters these make one token, so that `order_1` does not stand in `order_1-b`.
_JOINED: Final = r"[-.:/@#+~]"


def is_plain_id(text: str) -> bool:
    """Whether a text is one token that could be an id: no spaces, quotes, brackets or control characters."""
    return _ID.fullmatch(text) is not None


def names(words: str, token: str) -> bool:
    """Whether `token` stands in `words` as a whole, and not as a part of a longer token."""
    if not token:
        return False
    pattern = rf"(?<![\w])(?<!\w{_JOINED}){re.escape(token)}(?!\w)(?!{_JOINED}\w)"
    return re.search(pattern, words) is not None


@dataclass(slots=True)
class Scope:
    """What one run may see and do. `words` are the caller's own: never data that came from elsewhere."""

    tenant: str = "default"
    order_ids: set[str] = field(default_factory=set)
    driver_ids: set[str] = field(default_factory=set)
    words: str = ""
    allow_changes: bool = False
    _learned_orders: set[str] = field(default_factory=set, repr=False)
    _learned_drivers: set[str] = field(default_factory=set, repr=False)
    _learned_names: set[str] = field(default_factory=set, repr=False)

    def gave_order(self, order_id: str) -> bool:
        """Whether the caller named the order."""
        return order_id in self.order_ids or names(self.words, order_id)

    def gave_driver(self, driver_id: str) -> bool:
        """Whether the caller named the courier. What such a courier carries may be seen, too."""
        return driver_id in self.driver_ids or names(self.words, driver_id)

    def may_see_order(self, order_id: str) -> bool:
        """Whether a tool may look at the order."""
        return order_id in self._learned_orders or self.gave_order(order_id)

    def may_see_driver(self, driver_id: str) -> bool:
        """Whether a tool may look at the courier."""
        return driver_id in self._learned_drivers or self.gave_driver(driver_id)

    def may_name(self, name: str) -> bool:
        """Whether a tool may ask about a merchant, an area or an agent of this name."""
        return name in self._learned_names or names(self.words, name)

    def learn_order(self, order_id: str) -> None:
        """Opens an order that a typed field of an allowed answer named."""
        if is_plain_id(order_id):
            self._learned_orders.add(order_id)

    def learn_driver(self, driver_id: str) -> None:
        """Opens a courier that a typed field of an allowed answer named."""
        if is_plain_id(driver_id):
            self._learned_drivers.add(driver_id)

    def learn_name(self, name: str) -> None:
        """Opens a merchant or area that a typed field of an allowed answer named."""
        if name:
            self._learned_names.add(name)

    def shown_order(self, order_id: str) -> str:
        """The order as a model may see it: its id, or that it is another one."""
        return order_id if is_plain_id(order_id) and self.may_see_order(order_id) else "another order"

    def shown_driver(self, driver_id: str) -> str:
        """The courier as a model may see it: its id, or that it is another one."""
        return driver_id if is_plain_id(driver_id) and self.may_see_driver(driver_id) else "another courier"
