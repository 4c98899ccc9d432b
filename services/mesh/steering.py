"""Gives new connections of a shared port to the process that takes over."""

import contextlib
import ctypes
import logging
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

_log = logging.getLogger(__name__)

_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h
_BPF_RET_K: Final = 0x06  # linux/bpf_common.h
_SUCCESSOR: Final = 1

# Time for connections that are in the queue already to be accepted, in seconds.
SETTLE_S: Final = 0.05


def steer_away(listening: socket.socket) -> None:
    """New connections go to the second socket of the port's group: the successor's.

    A socket that closes resets the connections in its queue, so it must get no more of them first
    (socket(7), SO_ATTACH_REUSEPORT_CBPF). The oldest socket of a group is the first; when it closes, the last
    one takes its place, so of two the drained one is always the first. Without a successor the number is out
    of range, and the kernel chooses as if there were no program: this very socket.
    """
    # struct sock_filter {code, jt, jf, k} and struct sock_fprog {len, *filter} of linux/filter.h.
    instruction = ctypes.create_string_buffer(struct.pack("@HBBI", _BPF_RET_K, 0, 0, _SUCCESSOR))
    program = struct.pack("@HP", 1, ctypes.addressof(instruction))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
    except OSError as error:  # an old kernel, or not Linux: a restart may reset a connection or two
        _log.info("new connections cannot be steered to a successor: %s", error.strerror)


def steer_port_away(port: int) -> None:
    """The same for a port that a library listens on which keeps its socket to itself."""
    for listening in _listening():
        if listening.getsockname()[1] == port:
            steer_away(listening)


def _listening() -> Iterator[socket.socket]:
    """A copy of each TCP socket this process listens with, closed after its turn (proc_pid_fd(5))."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # not Linux
        return
    for number in numbers:
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(number)) as copy:
                tcp = copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM
                if tcp and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield copy
