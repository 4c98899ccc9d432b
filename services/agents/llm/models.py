"""The language models of a process: one door, behind it limits, breakers, cache and connections."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from services.agents.llm.cache import Cache, Kept
from services.agents.llm.config import ModelsConfig
from services.agents.llm.guard import Guard
from services.agents.llm.ledger import Ledger
from services.agents.llm.pace import Pace
from services.agents.llm.reply import Attempt, ModelFailure, ModelReply
from services.agents.llm.request import ModelRequest, ModelSettings
from services.agents.llm.schema import shape_of
from services.agents.llm.slots import Slots
from services.agents.llm.telling import CallerError, Telling
from services.mesh import principal
from services.mesh.breaker import Breaker, BreakerPolicy, Listener, State
from services.mesh.deadline import Clock

if TYPE_CHECKING:
    from services.agents.llm.asking import Means

_LOG: Final = logging.getLogger(__name__)

# What a caller needs for an answer of its own, in seconds.
RESERVE_S: Final = 0.5
_OTHER: Final = "other"
# What ends while the process does.
_CLOSE_S: Final = 5.0
# Models take seconds; a shorter budget that has passed says nothing of them until they have been seen.
_BREAKER: Final = BreakerPolicy(usual_s=3.0)
# Agents name models; not so many that this would matter, unless somebody means to.
_MOST_BREAKERS: Final = 1024


class LanguageModels:
    """Asks models of one OpenAI-compatible server. Made in the loop that uses it; `close` when done.

    `clock` is monotonic, in seconds; `jitter` gives numbers in 0..1; `on_breaker` hears of changes of state.
    """

    def __init__(
        self,
        config: ModelsConfig,
        *,
        breaker: BreakerPolicy = _BREAKER,
        on_breaker: Listener | None = None,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self._policy = breaker
        self._on_breaker = on_breaker
        self._clock = clock
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self.slots = Slots(config.max_concurrent_calls)
        self.cache = Cache(config.cache_entries, config.cache_bytes, config.cache_ttl_s, clock)
        self._means: Means | None = None
        if config.api_key.get_secret_value():
            # Late: the package takes a second and 50 MB, which a process without a key need not spend.
            from services.agents.llm import asking
            from services.agents.llm.transport import Transport

            self._means = asking.Means(
                config,
                Transport(config),
                self.slots,
                self.cache,
                self.guard,
                clock,
                sleep,
                jitter,
                self._finish,
            )

    @property
    def available(self) -> bool:
        """False: there is no key, or no model is named."""
        return self._means is not None and bool(self.config.model)

    def models(self, settings: ModelSettings) -> tuple[str, ...]:
        """The models that `settings` mean, in their order, each once."""
        named = (
            settings.model or self.config.model,
            *(settings.fallback_models or self.config.fallback_models),
        )
        return tuple(dict.fromkeys(model for model in named if model))

    def after(self, model: str, settings: ModelSettings) -> ModelSettings | None:
        """The same with those models alone that come after `model`; None if there are none."""
        named = self.models(settings)
        later = named[named.index(model) + 1 :]
        # Never without fallback models, which would mean the service's: one that is named twice counts once.
        return replace(settings, model=later[0], fallback_models=later) if later else None

    async def complete(
        self,
        request: ModelRequest,
        *,
        ledger: Ledger | None = None,
        on_text: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        on_given_up: Callable[[tuple[Attempt, ...]], None] | None = None,
        reserve_s: float = RESERVE_S,
    ) -> ModelReply:
        """The first good reply of the models in their order, before the deadline less `reserve_s`.

        With `on_text` it is streamed: pieces of one response. If that response fails after pieces were told,
        `on_restart` is called once and no more pieces are told. If the caller is cancelled, `on_given_up`
        hears what was tried until then and what that may have cost. Raises ModelFailure; what `on_text` or
        `on_restart` raises ends the call and is raised as it is.

        A reply is in no cache before its caller has it kept (`keep`).
        """
        models = self.models(request.settings)
        if self._means is None or not models:
            raise ModelFailure("no model is configured")
        from services.agents.llm.asking import Asking

        try:
            shape = None if request.schema is None else shape_of(request.schema)
            asking = Asking(
                self._means,
                request,
                shape,
                ledger,
                Telling(on_text, on_restart),
                Pace(reserve_s, self._clock),
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise ModelFailure(f"the request cannot be sent: {type(error).__name__}") from error
        try:
            return await asking.run(models)
        except CallerError as error:
            raise error.error from None
        except asyncio.CancelledError:
            if on_given_up is not None:
                on_given_up(asking.failed)
            raise

    def keep(self, replies: Iterable[ModelReply]) -> None:
        """Keeps replies that their caller has found right, for whoever asks the very same again.

        Not each as it comes: what is wrong with one may show only afterwards, and kept it would come again.
        """
        for reply in replies:
            if reply.cache_key is not None:
                self.cache.put(reply.cache_key, Kept(reply.text, reply.tool_uses, reply.finish_reason))

    def named(self, model: str) -> str:
        """A model as metrics name it: agents may name any, those we know are so many and no more."""
        if model in (self.config.model, *self.config.fallback_models):
            return model
        return self.config.prices.listed(model) or _OTHER

    def guard(self, model: str) -> Guard:
        """Whether the tenant at hand may ask a model."""
        tenant = principal.current().tenant
        if tenant == principal.DEFAULT_TENANT:
            return Guard(self.breaker(model))
        return Guard(self.breaker(model), self.breaker(model, tenant))

    def breaker(self, model: str, tenant: str = "") -> Breaker:
        """The breaker of a model: of all together, or of a tenant, of which nobody else is told."""
        key = (model, tenant)
        breaker = self._breakers.get(key)
        if breaker is None:
            if len(self._breakers) >= _MOST_BREAKERS:
                self._forget()
            breaker = self._breakers[key] = Breaker(model, "chat", self._policy, clock=self._clock)
            if self._on_breaker is not None and not tenant:
                breaker.on_change(self._on_breaker)
        return breaker

    async def close(self) -> None:
        """Waits for what has to be finished, but not for ever, and ends all connections."""
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=_CLOSE_S)
        if self._means is not None:
            await self._means.transport.close()

    def _forget(self) -> None:
        """Makes room: the oldest breaker that has nothing to remember, or the oldest."""
        quiet = (
            key
            for key, breaker in self._breakers.items()
            if breaker.state is State.CLOSED and not breaker.failures
        )
        del self._breakers[next(quiet, next(iter(self._breakers)))]

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Does `work` to its end, even if the caller is cancelled meanwhile."""
        task = asyncio.get_running_loop().create_task(_quietly(work))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        await asyncio.shield(task)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:
        _LOG.error("what a call took could not be settled: %s", type(error).__name__)
