"""What others do before and after each action of an agent and each task of a servicer."""

import inspect
from collections.abc import Awaitable

from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.feedback import outcome
from services.mesh.feedback.actions import Action, DispatchResult, PostHook, PreHook


class Hooks:
    """Functions and coroutine functions, called in the order in which they were added.

    False while there are none. One object may serve a dispatcher and several servicers. Hooks run on the
    loop, in the caller's way: a plain one must not block, and the answer waits for what a post hook awaits.
    """

    def __init__(self) -> None:
        self._pre: list[PreHook] = []
        self._post: list[PostHook] = []
        self._change = False

    def __bool__(self) -> bool:
        return bool(self._pre or self._post)

    def add_pre_hook(self, hook: PreHook) -> None:
        """`hook(action)` before each action or task; if it raises, that fails with the error."""
        self._pre.append(hook)

    def add_post_hook(self, hook: PostHook, *, numbers: bool = False) -> None:
        """`hook(action, result, event)` after each action or task, before the event is recorded.

        Its errors are noted in the event's metadata, as `post_hook_error`, and change nothing else. With
        `numbers` it puts nothing but numbers into the event, which need not be looked through again.
        """
        self._post.append(hook)
        self._change = self._change or not numbers

    @property
    def change_events(self) -> bool:
        """Whether there are hooks that may put something into an event, which nobody has looked at then."""
        return self._change

    async def before(self, action: Action) -> None:
        """Raises what a hook raises; those behind it do not run."""
        for hook in self._pre:
            await _maybe(hook(action))

    async def after(
        self, action: Action, result: DispatchResult, event: OutcomeEvent
    ) -> BaseException | None:
        """What has to be raised once the event is recorded: a cancel, the end of the process."""
        # Who is thrown away, not cancelled, must not wait any more.
        for hook in () if isinstance(result.error, GeneratorExit) else self._post:
            try:
                await _maybe(hook(action, result, event))
            except Exception as failed:
                event.metadata.update({"post_hook_error": outcome.describe(failed)})
            except BaseException as gone:  # a caller who goes away while a hook runs has had the action done
                return gone
        return None


async def _maybe(result: Awaitable[None] | None) -> None:
    if inspect.isawaitable(result):
        await result
