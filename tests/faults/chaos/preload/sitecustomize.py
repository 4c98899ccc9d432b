"""Loaded by every Python process of the mesh under test: its wall clock is off by what a file says, and its
peers are where the harness says.

CHAOS_CLOCKS is a folder with one file of 8 bytes per process name, a double in native order: seconds.
CHAOS_ENVIRON is JSON of variables that the services get in place of those that `waymesh up` gives them.
"""

import datetime as datetime_module
import json
import mmap
import os
import struct
import sys
import time as time_module
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

_DOUBLE = struct.Struct("d")


def _name() -> str:
    """Of this process: the last part of the module that it runs; what it starts has the same."""
    words = sys.orig_argv
    if "-m" in words:
        module = words[words.index("-m") + 1]
        if module.startswith(("services.", "tests.faults.chaos.")):
            return module.rpartition(".")[2]
    return os.environ.get("CHAOS_NAME", "")


def _shift_clock(path: Path) -> None:
    with path.open("rb") as file:
        held = mmap.mmap(file.fileno(), _DOUBLE.size, prot=mmap.PROT_READ)

    def offset() -> float:
        return float(_DOUBLE.unpack_from(held)[0])

    time, time_ns = time_module.time, time_module.time_ns
    real = datetime_module.datetime

    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, real)

    class datetime(real, metaclass=Meta):  # noqa: N801 - it stands for the one of that name
        """Makes real ones; only what it takes for now is another time."""

        __slots__ = ()

        def __new__(cls, *args: object, **kwargs: object) -> "datetime":
            return real(*args, **kwargs)

        @classmethod
        def now(cls, tz: datetime_module.tzinfo | None = None) -> datetime_module.datetime:
            return real.fromtimestamp(time() + offset(), tz)

        @classmethod
        def utcnow(cls) -> datetime_module.datetime:
            return real.fromtimestamp(time() + offset(), datetime_module.UTC).replace(tzinfo=None)

    _spare_grpc(time)
    time_module.time = lambda: time() + offset()
    time_module.time_ns = lambda: time_ns() + round(offset() * 1e9)
    datetime_module.datetime = datetime


def _spare_grpc(time: Callable[[], float]) -> None:
    """It takes the time from deadlines that its core has made by the system's clock, which goes right here.

    Where that clock does, both are off by the same.
    """
    from grpc._cython import cygrpc

    cygrpc.time = SimpleNamespace(**{**vars(time_module), "time": time})


def _main() -> None:
    name = _name()
    if not name:
        return
    os.environ["CHAOS_NAME"] = name
    if "-m" in sys.orig_argv:
        os.environ.update(json.loads(os.environ.get("CHAOS_ENVIRON", "{}")))
    clock = Path(os.environ.get("CHAOS_CLOCKS", "")) / f"{name}.clock"
    if clock.is_file():
        _shift_clock(clock)


_main()
