"""A channel without links that another may take the place of, as when certificates have changed."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import grpc

READY = grpc.ChannelConnectivity.READY


class Bare:
    """One grpc.aio channel, with the calls that are under way on it.

    Who calls counts itself in `under_way` and says `release` at the end: a channel that nobody begins calls
    on any more is closed once the last has ended.
    """

    __slots__ = ("_closing", "_retired", "channel", "under_way")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.under_way = 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None

    def release(self) -> None:
        """A call has ended."""
        self.under_way -= 1
        if self._retired:
            self._close_if_idle()

    @contextlib.contextmanager
    def held(self) -> Iterator[grpc.aio.Channel]:
        """The channel for one call."""
        self.under_way += 1
        try:
            yield self.channel
        finally:
            self.release()

    def retire(self) -> None:
        """No call begins here any more."""
        self._retired = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.under_way or self._closing is not None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the channel with it
            loop = asyncio.get_running_loop()
            self._closing = loop.create_task(self.channel.close(), name="close a channel")


class Succession:
    """The channel of one target now, and the one that is to come after it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.now = Bare(channel)
        self._former: list[Bare] = []
        self._coming: asyncio.Task[None] | None = None

    def renew(self, make: Callable[[], grpc.aio.Channel]) -> None:
        """New calls go by what `make` gives, as soon as that is connected or the present one is not.

        A target that does not take the new certificate yet is called with the old one until it does.
        """
        if self._coming is not None:
            self._coming.cancel()
        self._coming = asyncio.create_task(self._succeed(make()), name="renew a channel")

    async def _succeed(self, fresh: grpc.aio.Channel) -> None:
        try:
            if self.now.channel.get_state() is READY:
                await fresh.channel_ready()
        except asyncio.CancelledError:
            await fresh.close()
            raise
        old, self.now = self.now, Bare(fresh)
        self._former = [each for each in self._former if each.under_way]
        self._former.append(old)
        old.retire()

    async def close(self, grace: float | None = None) -> None:
        """Ends all of them."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        former, self._former = self._former, []
        for each in (*former, self.now):
            await each.channel.close(grace)
