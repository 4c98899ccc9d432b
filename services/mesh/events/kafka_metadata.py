"""Brokers are asked who leads which partition ten times a second at most, by each client.

While a partition has no leader, aiokafka's producers and consumers ask again as soon as they have the answer:
thousands of times a second, which takes a whole core here and as much of the brokers. There is no public way
to make them wait, so the library's own client is changed.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiokafka.client import AIOKafkaClient

_ASK: Final = "_metadata_update"
_MENDED: Final = "asks_calmly"
_ASKED_AT: Final = "_asked_at"
_PAUSE_S: Final = 0.1


def ask_calmly() -> None:
    """From now on, all clients of this process; may be repeated. Who has not asked for long asks at once."""
    ask = getattr(AIOKafkaClient, _ASK, None)
    if ask is not None and not hasattr(ask, _MENDED):
        setattr(AIOKafkaClient, _ASK, _calm(ask))


def _calm(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(ask)
    async def mended(client: AIOKafkaClient, *args: Any, **options: Any) -> Any:
        asked_at = vars(client).get(_ASKED_AT)
        if asked_at is not None:
            await asyncio.sleep(max(0.0, asked_at + _PAUSE_S - time.monotonic()))
        vars(client)[_ASKED_AT] = time.monotonic()
        return await ask(client, *args, **options)

    setattr(mended, _MENDED, True)
    return mended
