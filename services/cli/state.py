"""What a running `up` leaves for other commands: a lock that says it lives, a file that says where everything
is.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from services.cli.errors import CliError

STATE_FILE: Final = "up.json"
LOCK_FILE: Final = "up.lock"
SOCKET_FILE: Final = "up.sock"
KEY_FILE: Final = "api_key"
# How long a killed leftover may take to vanish, in seconds.
_GONE_S: Final = 5.0
# When no process was started.
_NEVER: Final = -1


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told from a later one with the same number by when it was started (clock ticks since
    boot).
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """Of one that runs; one that has just ended is nobody who is alive."""
        started = _start_ticks(pid)
        return cls(pid, _NEVER if started is None else started)

    @property
    def alive(self) -> bool:
        """Whether it still runs. A zombie does not."""
        return _start_ticks(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Where one service is."""

    name: str
    state: str
    pid: int | None
    host: str
    port: int
    admin_port: int


@dataclass(frozen=True, slots=True)
class MeshState:
    """Where a running mesh is."""

    pid: int
    data_dir: str
    dsn: str
    postgres_pid: int | None = None
    services: dict[str, ServiceState] = field(default_factory=dict)
    processes: list[ProcessId] = field(default_factory=list)
    """Those that must not outlive it. PostgreSQL looks after its own."""

    def target(self, name: str) -> str:
        """host:port of a service."""
        entry = self.services[name]
        return f"{entry.host}:{entry.port}"


class RunLock:
    """Held by a running `up`; the kernel lets go of it however the process ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_FILE
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether we hold it."""
        return self._fd is not None

    def acquire(self) -> None:
        """Raises CliError if another `up` holds it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise CliError(
                f"a mesh already runs on {self._path.parent} (pid {holder or 'unknown'}): "
                "stop it with Ctrl-C there, or set WAYMESH_DATA_DIR to another folder"
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Lets another `up` start."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.ftruncate(fd, 0)
            os.close(fd)


def is_running(data_dir: Path) -> bool:
    """Whether an `up` holds the folder."""
    try:
        fd = os.open(data_dir / LOCK_FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def save(data_dir: Path, state: MeshState) -> None:
    """Replaces the file at once, so that a reader sees the old or the new one. It may hold a password:
    0600.
    """
    path = data_dir / STATE_FILE
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(asdict(state), file, indent=1)
    fresh.replace(path)


def load(data_dir: Path) -> MeshState | None:
    """What the file says, whether or not that mesh still runs; None if there is none that can be read."""
    try:
        held: Any = json.loads((data_dir / STATE_FILE).read_text("utf-8"))
        return MeshState(
            pid=held["pid"],
            data_dir=held["data_dir"],
            dsn=held["dsn"],
            postgres_pid=held["postgres_pid"],
            services={name: ServiceState(**entry) for name, entry in held["services"].items()},
            processes=[ProcessId(**entry) for entry in held["processes"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running(data_dir: Path) -> MeshState:
    """The mesh that runs on the folder. Raises CliError if none does."""
    state = load(data_dir) if is_running(data_dir) else None
    if state is None:
        raise CliError(
            f"no mesh runs on {data_dir}: start one with `waymesh up`, "
            "or set WAYMESH_DATA_DIR to the folder of the one you mean"
        )
    return state


def clear(data_dir: Path) -> None:
    """Removes the file and the socket of a mesh that has ended."""
    for name in (STATE_FILE, SOCKET_FILE):
        with contextlib.suppress(FileNotFoundError):
            (data_dir / name).unlink()


def end_leftovers(data_dir: Path) -> list[int]:
    """Kills what a mesh that died without stopping has left running; call with the lock held. Returns the
    pids.
    """
    state = load(data_dir)
    if state is None:
        return []
    left = [process for process in state.processes if process.alive]
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + _GONE_S
    while any(process.alive for process in left):
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in left if process.alive)
            raise CliError(f"processes of an earlier mesh on {data_dir} do not end: stop {pids} by hand")
        time.sleep(0.02)
    return [process.pid for process in left]


def _start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    # The name, field 2, may hold spaces and brackets; what follows its last bracket does not
    # (proc_pid_stat(5)).
    after = text.rpartition(")")[2].split()
    return None if after[0] in ("Z", "X") else int(after[19])
