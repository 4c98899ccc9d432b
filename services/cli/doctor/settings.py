"""Whether services could start with the variables of this environment."""

import asyncio
import sys

from services.cli.doctor import variables
from services.cli.doctor.finding import Finding, fail, ok
from services.cli.doctor.scene import Scene
from services.cli.environment import SERVICE_NAMES
from services.mesh.settings_check import NAMES

_REMEDY = "correct it where it is set"


def wrong(error: Exception) -> Finding:
    """A variable that all share."""
    return fail("settings", str(error), _REMEDY)


async def of_services(scene: Scene) -> list[Finding]:
    """Each service's own, read by a process of its own; files of TLS apart, which differ from pod to pod.

    After that, what none of them reads.
    """
    environ = {
        **{name: value for name, value in scene.environ.items() if not name.startswith("WAYMESH_TLS_")},
        "WAYMESH_ALLOW_PLAINTEXT": "true",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "services.mesh.settings_check", NAMES, *SERVICE_NAMES),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
    )
    try:
        said, trouble = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    names, _, words = said.decode(errors="replace").partition("\n")
    unread = variables.unread(scene.environ, names.split()) if names else []
    if process.returncode:
        lines = (words or trouble.decode(errors="replace")).strip().splitlines()
        return [fail("settings", lines[-1] if lines else "they could not be read", _REMEDY), *unread]
    return [ok("settings", "every variable that is read holds what is allowed"), *unread]
