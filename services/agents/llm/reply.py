"""What came of asking: a reply, or a failure with all that was tried."""

from dataclasses import dataclass
from typing import Any, Final

GIVEN_UP: Final = "given_up"
"""Kind of an attempt whose caller was cancelled meanwhile: no fault, but it may have cost all the same."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool the model asks for; `arguments` is JSON text as the model gave it, right or wrong."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens in and out; `estimated` where the server did not say how many they were."""

    input: int = 0
    output: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        """Both together."""
        return self.input + self.output

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.input + other.input, self.output + other.output, self.estimated or other.estimated)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try that came to nothing, or a model that was not asked at all (not `sent`, no tokens).

    `error_kind` is an `ErrorKind` or `GIVEN_UP`. `message` names statuses and codes, never what was asked or
    answered.
    """

    model: str
    error_kind: str
    message: str
    latency_ms: float = 0.0
    tokens: Tokens = Tokens()
    cost_nano_usd: int = 0
    sent: bool = True


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A complete and valid answer of `model`.

    `parsed` is the value of a structured answer. `tokens` and `cost_nano_usd` are all that was spent on the
    way, by failed attempts too, which `failed` lists. `latency_ms` is that of the call that was
    answered. Where not `price_known`, the model is not in the list of prices and its cost is 0. `cache_key`:
    under what `LanguageModels.keep` may keep it; None if it comes from there, or is not to be kept.
    """

    text: str
    tool_uses: tuple[ToolUse, ...]
    parsed: Any | None
    model: str
    tokens: Tokens
    cost_nano_usd: int
    latency_ms: float
    cached: bool
    finish_reason: str
    price_known: bool = True
    failed: tuple[Attempt, ...] = ()
    cache_key: bytes | None = None


class ModelFailure(Exception):  # noqa: N818 - the outcome of a ladder, not a fault of the program
    """No model gave an answer. `reason` is short and may be shown to a caller.

    Where a budget refused a model, `__cause__` is the ledger's ResourceExhausted.
    """

    def __init__(self, reason: str, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.attempts = attempts

    @property
    def tokens(self) -> Tokens:
        """What all attempts took."""
        return sum((attempt.tokens for attempt in self.attempts), Tokens())

    @property
    def cost_nano_usd(self) -> int:
        """What all attempts cost."""
        return sum(attempt.cost_nano_usd for attempt in self.attempts)
