"""Some links, ready to run: only those of their functions that do something."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Call = TypeVar("Call")
After = Callable[[Call, BaseException | None], BaseException | None]


class Around(Generic[Call]):
    """`before` in order, `after` in reverse.

    If the k-th `before` raises, `afters[k]` are those of the links outside of it; `afters[-1]` are all.
    """

    __slots__ = ("afters", "befores")

    def __init__(self, links: Sequence[Any], base: type[Any]) -> None:
        """`base` is the class whose own functions do nothing."""
        self.befores: list[Callable[[Call], None]] = []
        self.afters: list[list[After[Call]]] = []
        entered: list[After[Call]] = []
        for link in links:
            if type(link).before is not base.before:
                self.befores.append(link.before)
                self.afters.append(entered[::-1])
            if type(link).after is not base.after:
                entered.append(link.after)
        self.afters.append(entered[::-1])

    def enter(self, call: Call) -> BaseException | None:
        """The way in. A link that refuses is the error; those outside of it have been left again."""
        entered = 0
        try:
            for before in self.befores:
                before(call)
                entered += 1
        except BaseException as raised:
            return self.leave(call, raised, entered)
        return None

    def leave(self, call: Call, error: BaseException | None, entered: int = -1) -> BaseException | None:
        """The way back, of the first `entered` links that have a way in; gives the error that goes on."""
        for after in self.afters[entered]:
            error = after(call, error)
        return error
