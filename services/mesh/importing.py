"""Imports without looks for garbage: what is imported stays, and to look through it is a sixth of a start."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """The collector rests until the block ends."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
