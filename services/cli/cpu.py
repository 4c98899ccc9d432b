"""What the processes of a mesh on this machine have computed: to show where the time of a run went."""

import os

import psutil

from services.cli.state import MeshState


def cpu_seconds(mesh: MeshState) -> dict[str, float]:
    """CPU seconds so far, by service; `postgres` with all its backends, `client` for this process."""
    found = {name: _own(entry.pid) for name, entry in mesh.services.items() if entry.pid is not None}
    if mesh.postgres_pid is not None:
        found["postgres"] = _with_children(mesh.postgres_pid)
    found["client"] = _own(os.getpid())
    return found


def _own(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def _with_children(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        children = [child.pid for child in process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    ended = times.children_user + times.children_system
    return times.user + times.system + ended + sum(_own(child) for child in children)
