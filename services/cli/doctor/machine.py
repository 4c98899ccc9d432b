"""What this machine, or this container, gives to a process."""

import os
import resource
import shutil
import tempfile
from typing import Final

from services.cli.doctor.finding import Finding, fail, ok, warn
from services.cli.doctor.scene import Scene

_MIB: Final = 1 << 20
# The recorder's spool and the keys' snapshot lie there.
_LITTLE_MIB: Final = 1024
_TOO_LITTLE_MIB: Final = 64
# One for each connection, and some for files.
_FEW_FILES: Final = 4096


async def data_dir(scene: Scene) -> list[Finding]:
    """Whether it can be written to, and how much room is left."""
    check, folder = "data folder", scene.data_dir
    other = "set WAYMESH_DATA_DIR to a folder that this user may write to, or mount one there"
    # It is made by who first needs it; nothing of what is looked at here stays.
    place = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"waymesh")
            file.flush()
            os.fsync(file.fileno())
        free_mib = shutil.disk_usage(place).free // _MIB
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return [fail(check, f"{folder} cannot be written to ({why})", other)]
    room = f"{folder}, {free_mib} MiB free"
    more = "make room there, or mount a larger volume"
    if free_mib < _TOO_LITTLE_MIB:
        return [fail(check, room, more)]
    return [warn(check, room, more) if free_mib < _LITTLE_MIB else ok(check, room)]


async def open_files(_scene: Scene) -> list[Finding]:
    """How many files and connections a process may have open."""
    check = "open files"
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return [ok(check, "no limit")]
    if most < _FEW_FILES:
        remedy = f"raise it: `ulimit -n {_FEW_FILES}`, LimitNOFILE, or ulimits of the container"
        return [warn(check, f"a process may have {most} open, connections among them", remedy)]
    return [ok(check, f"a process may have {most}")]
