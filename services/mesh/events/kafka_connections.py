"""Writing to a connection that was reset a moment ago is a KafkaConnectionError, on uvloop too.

There it is a RuntimeError, until the reader has seen the reset. aiokafka counts on asyncio's OSError or
silence: its task that learns who leads which partition would die of it unseen, and what waits for that task
would wait for ever; its sender would end with all that is under way. There is no public way to have one's own
connections, so the library's are changed.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_WRITING: Final = ("send", "_send_sasl_token")
_MENDED: Final = "ends_if_reset"


def end_if_reset() -> None:
    """From now on, all connections of this process; may be repeated."""
    for name in _WRITING:
        write = getattr(AIOKafkaConnection, name, None)
        if write is not None and not hasattr(write, _MENDED):
            setattr(AIOKafkaConnection, name, _ending(write))


def _ending(write: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(write)
    def mended(connection: AIOKafkaConnection, *args: Any, **options: Any) -> Any:
        try:
            return write(connection, *args, **options)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
            raise KafkaConnectionError(
                f"Connection at {connection.host}:{connection.port} was reset"
            ) from error

    setattr(mended, _MENDED, True)
    return mended
