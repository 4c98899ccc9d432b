"""One `complete`: the models in their order, each with its tries, its waits and its share of the time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

from services.agents.llm import backoff
from services.agents.llm.answer import BYTES_PER_TOKEN, Answer
from services.agents.llm.body import Body, complete
from services.agents.llm.cache import Cache, Kept, key_of
from services.agents.llm.config import ModelsConfig
from services.agents.llm.guard import Guard
from services.agents.llm.kinds import RULES, CallError, ErrorKind
from services.agents.llm.ledger import Hold, Ledger
from services.agents.llm.pace import LEAST_CALL_S, Pace
from services.agents.llm.reply import GIVEN_UP, Attempt, ModelFailure, ModelReply, Tokens
from services.agents.llm.request import ModelRequest
from services.agents.llm.schema import Shape
from services.agents.llm.slots import Slots
from services.agents.llm.telling import CallerError, Telling
from services.agents.llm.transport import Transport
from services.agents.llm.verdict import Usable, judge
from services.mesh import errors
from services.mesh.deadline import Clock

_LOG: Final = logging.getLogger(__name__)
_REASON_CHARS: Final = 240
# Says nothing to a breaker.
_NOTHING: Final = errors.Cancelled("only asked whether a call may be made")

# For a place among the calls of this process. In seconds.
LONGEST_WAIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Means:
    """What all calls of a process share."""

    config: ModelsConfig
    transport: Transport
    slots: Slots
    cache: Cache
    guard: Callable[[str], Guard]
    clock: Clock
    sleep: Callable[[float], Awaitable[None]]
    jitter: Callable[[], float]
    # Runs to its end even if the caller is cancelled.
    finish: Callable[[Coroutine[Any, Any, None]], Awaitable[None]]


class Asking:
    """Asks for one reply. `run` once."""

    def __init__(
        self,
        means: Means,
        request: ModelRequest,
        shape: Shape | None,
        ledger: Ledger | None,
        telling: Telling,
        pace: Pace,
    ) -> None:
        self._means = means
        self._request = request
        self._shape = shape
        self._body = Body(request, shape, means.config.limit_field)
        self._ledger = ledger
        self._telling = telling
        self._pace = pace
        self._failed: list[Attempt] = []
        self._refusal: errors.MeshError | None = None

    @property
    def failed(self) -> tuple[Attempt, ...]:
        """What came to nothing so far."""
        return tuple(self._failed)

    async def run(self, models: tuple[str, ...]) -> ModelReply:
        """The first good reply. Raises ModelFailure, or CallerError around what the caller raised."""
        for place, model in enumerate(models):
            body = self._body.of(model)
            key = None
            if self._request.cache_scope is not None:
                key = key_of(self._means.config.base_url, self._request.cache_scope, body)
                kept = None if self._request.fresh else self._means.cache.get(key)
                if kept is not None:
                    return self._replay(model, kept)
            reply = await self._ask(model, body, models[place + 1 :])
            if reply is not None:
                # Whether it is worth keeping only the caller can tell, who knows what it may say.
                return reply if reply.finish_reason == "length" else replace(reply, cache_key=key)
        raise self._failure() from self._refusal

    def _replay(self, model: str, kept: Kept) -> ModelReply:
        """A kept answer, told as one piece."""
        parsed = self._shape.read(kept.text) if self._shape is not None and not kept.tool_uses else None
        self._telling.piece(kept.text)
        return self._reply(model, Usable(kept.text, kept.tool_uses, parsed, kept.finish_reason), Tokens(), 0)

    async def _ask(self, model: str, body: bytes, others: tuple[str, ...]) -> ModelReply | None:
        """All tries of one model; None if it has no answer."""
        tries = 0
        ends: float | None = None  # of its share, which begins when its first call may
        while True:
            tries += 1
            began = self._means.clock()
            try:
                self._may_ask(model)
                await self._place(ends)
                try:
                    if ends is None:
                        after = sum(not self._means.guard(other).is_open for other in others)
                        began = self._means.clock()
                        ends = began + self._pace.share_s(self._request.settings.timeout_s, after)
                    return await self._try(model, body, ends - self._means.clock())
                finally:
                    self._means.slots.give_back()
            except CallError as error:
                self._note(model, error, began)
                if tries >= error.tries or ends is None:
                    return None
                wait_s = backoff.wait_s(tries, error.retry_after_s, self._means.jitter())
                if self._means.clock() + wait_s + LEAST_CALL_S > ends:
                    return None
            await self._means.sleep(wait_s)

    def _may_ask(self, model: str) -> None:
        """Raises what a model would be refused for once there is a place: nobody has to wait for that."""
        guard = self._means.guard(model)
        try:
            guard.settle(guard.admit(), _NOTHING)
        except errors.Unavailable:
            raise CallError(ErrorKind.BREAKER_OPEN) from None
        limits_money = self._ledger is not None and getattr(self._ledger, "limits_money", True)
        if limits_money and self._means.config.prices.price(model) is None:
            raise CallError(ErrorKind.PRICE_UNKNOWN)

    async def _place(self, ends: float | None) -> None:
        """Waits a little for a place among the calls under way, if there is time for a call.

        Not for all the time there is: where others keep all places for long, an answer without a model that
        comes soon is worth more than one that comes last.
        """
        left_s = self._pace.left_s() if ends is None else ends - self._means.clock()
        spare_s = left_s - LEAST_CALL_S
        if spare_s <= 0:
            raise CallError(ErrorKind.OUT_OF_TIME)
        if not await self._means.slots.take(min(spare_s, LONGEST_WAIT_S)):
            raise CallError(ErrorKind.BUSY)

    async def _try(self, model: str, body: bytes, share_s: float) -> ModelReply:
        """One call, judged by the breaker whatever becomes of it."""
        limit_s = min(self._request.settings.timeout_s, share_s)
        if limit_s < LEAST_CALL_S:
            raise CallError(ErrorKind.OUT_OF_TIME)
        guard = self._means.guard(model)
        try:
            leave = guard.admit()
        except errors.Unavailable:
            raise CallError(ErrorKind.BREAKER_OPEN) from None
        began = self._means.clock()
        error: BaseException | None = None
        try:
            hold = await self._reserve(model, body, limit_s)
            limit_s -= self._means.clock() - began
            return await self._call(model, body, limit_s, hold)
        except BaseException as raised:
            error = raised
            raise
        finally:
            guard.settle(leave, error, limit_s, self._means.clock() - began)

    async def _call(
        self, model: str, body: bytes, limit_s: float, hold: tuple[Ledger, Hold] | None
    ) -> ModelReply:
        """One call within `limit_s`; what was set aside for it is settled whatever becomes of it."""
        streamed = self._telling.wanted
        answer = Answer(self._means.config.max_answer_bytes, self._telling.piece if streamed else None)
        spent = Tokens()
        began = self._means.clock()
        try:
            data = complete(body, streamed)
            try:
                async with asyncio.timeout(limit_s):
                    await self._means.transport.call(data, answer, streamed)
                usable = judge(answer, self._shape, bool(self._request.tools))
            except TimeoutError:
                raise CallError(ErrorKind.TIMEOUT, f"no complete answer within {limit_s:.1f} s") from None
            finally:
                spent = answer.estimate(len(data), self._request.settings.max_output_tokens)
        except (CallError, CallerError) as error:
            if isinstance(error, CallError):
                error.sent = True
                if error.unbilled:
                    spent = Tokens()
                error.tokens = spent
            raise
        except asyncio.CancelledError:
            taken_ms, cost = self._pace.since_ms(began), self._means.config.prices.cost(model, spent)
            self._failed.append(Attempt(model, GIVEN_UP, "given up by its caller", taken_ms, spent, cost))
            raise
        except Exception as error:
            # What it says may hold what was asked or answered.
            _LOG.error("a call to a model failed unexpectedly: %s", type(error).__name__)
            failure = CallError(ErrorKind.INTERNAL, type(error).__name__)
            failure.sent, failure.tokens = True, spent
            raise failure from None
        finally:
            if hold is not None:
                await self._settle(hold, model, spent)
        cost = self._means.config.prices.cost(model, spent)
        return self._reply(model, usable, spent, cost, began=began)

    async def _reserve(self, model: str, body: bytes, limit_s: float) -> tuple[Ledger, Hold] | None:
        """Sets aside the most the call can take, a token being at least a byte, and says what is likely."""
        if self._ledger is None:
            return None
        price = self._means.config.prices.price(model)
        answer = self._request.settings.max_output_tokens
        most = Tokens(len(body), answer)
        likely = Tokens(-(-len(body) // BYTES_PER_TOKEN), answer)
        nano_usd = 0 if price is None else price.of(most)
        try:
            async with asyncio.timeout(limit_s):
                hold = await self._ledger.reserve(nano_usd, most.total, likely.total)
        except errors.ResourceExhausted as error:
            self._refusal = error
            raise CallError(ErrorKind.BUDGET, _in_the_way(error)) from None
        except Exception as error:
            _LOG.error("a budget could not be asked: %s", type(error).__name__)
            raise CallError(ErrorKind.INTERNAL, "the budget could not be asked") from None
        return self._ledger, hold

    async def _settle(self, hold: tuple[Ledger, Hold], model: str, spent: Tokens) -> None:
        ledger, held = hold
        cost = self._means.config.prices.cost(model, spent)
        await self._means.finish(ledger.settle(held, cost, spent.total))

    def _note(self, model: str, error: CallError, began: float) -> None:
        """Records a failed try, and tells the caller if text of it was told."""
        cost = self._means.config.prices.cost(model, error.tokens)
        taken_ms = self._pace.since_ms(began)
        attempt = Attempt(model, error.kind, error.message, taken_ms, error.tokens, cost, error.sent)
        self._failed.append(attempt)
        _LOG.info("model %s: %s after %.0f ms: %s", model, error.kind, attempt.latency_ms, error.message)
        self._telling.failed()

    def _reply(
        self, model: str, usable: Usable, spent: Tokens, cost: int, began: float | None = None
    ) -> ModelReply:
        """The reply of the call that began at `began`; None: of the cache."""
        return ModelReply(
            text=usable.text,
            tool_uses=usable.tool_uses,
            parsed=usable.parsed,
            model=model,
            tokens=sum((attempt.tokens for attempt in self._failed), spent),
            cost_nano_usd=sum((attempt.cost_nano_usd for attempt in self._failed), cost),
            latency_ms=self._pace.since_ms(began),
            cached=began is None,
            finish_reason=usable.finish_reason,
            price_known=self._means.config.prices.price(model) is not None,
            failed=tuple(self._failed),
        )

    def _failure(self) -> ModelFailure:
        """Each model with its last word."""
        last = {attempt.model: attempt for attempt in self._failed}
        words = [f"{model}: {_shown(attempt)}" for model, attempt in last.items()]
        return ModelFailure("; ".join(words)[:_REASON_CHARS], tuple(self._failed))


def _shown(attempt: Attempt) -> str:
    """What came of a model, to a caller."""
    kind = ErrorKind(attempt.error_kind)
    # Which budget it was is the caller's to know, who may have more than one of them.
    return attempt.message if kind is ErrorKind.BUDGET else RULES[kind].shown


def _in_the_way(error: errors.ResourceExhausted) -> str:
    """Which budget has no room for a call."""
    shown = RULES[ErrorKind.BUDGET].shown
    budget, limit = error.metadata.get("budget"), error.metadata.get("limit")
    return f"{shown}: the {budget}'s limit {limit}" if budget and limit else shown
