"""Whether services could start with the variables of this environment."""

import asyncio
import sys

from services.cli.doctor.finding import Finding, fail, ok
from services.cli.doctor.scene import Scene
from services.cli.environment import SERVICE_NAMES

_REMEDY = "correct it where it is set"


def wrong(error: Exception) -> Finding:
    """A variable that all share."""
    return fail("settings", str(error), _REMEDY)


async def of_services(scene: Scene) -> list[Finding]:
    """Each service's own, read by a process of its own; files of TLS apart, which differ from pod to pod."""
    environ = {
        **{name: value for name, value in scene.environ.items() if not name.startswith("WAYMESH_TLS_")},
        "WAYMESH_ALLOW_PLAINTEXT": "true",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "services.mesh.settings_check", *SERVICE_NAMES),
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
    if process.returncode:
        lines = (said or trouble).decode(errors="replace").strip().splitlines()
        return [fail("settings", lines[-1] if lines else "they could not be read", _REMEDY)]
    return [ok("settings", "every variable holds what is allowed")]
