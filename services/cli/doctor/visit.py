"""All checks at once, each for a bounded time, told in their order."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from services.cli.doctor import database, events, machine, outside, services, settings
from services.cli.doctor.finding import Finding, fail
from services.cli.doctor.scene import Scene

Check = Callable[[Scene], Awaitable[list[Finding]]]

CHECKS: Final[Mapping[str, Check]] = {
    "settings": settings.of_services,
    "data folder": machine.data_dir,
    "open files": machine.open_files,
    "certificate": services.own_certificate,
    "database": database.look,
    "events": events.look,
    "feedback": functools.partial(services.service, name="feedback"),
    "eta": functools.partial(services.service, name="eta"),
    "route": functools.partial(services.service, name="route"),
    "agents": functools.partial(services.service, name="agents"),
    "gateway": services.gateway,
    "traces": outside.traces,
    "model": outside.model,
}


async def visit(limit_s: float) -> list[Finding]:
    """What every check says, after `limit_s` seconds at most."""
    from services.mesh.settings import SettingsError
    from services.mesh.tls.files import FilesError

    try:
        scene = Scene.of()
    except (SettingsError, FilesError) as error:
        return [settings.wrong(error)]
    tasks = {
        name: asyncio.create_task(_bounded(name, check, scene, limit_s)) for name, check in CHECKS.items()
    }
    return [finding for task in tasks.values() for finding in await task]


async def _bounded(name: str, check: Check, scene: Scene, limit_s: float) -> list[Finding]:
    try:
        async with asyncio.timeout(limit_s):
            return await check(scene)
    except TimeoutError:
        return [fail(name, f"not done within {limit_s:g} s", "look at what it asks: something there hangs")]
    except Exception as error:
        words = f"could not be looked at: {type(error).__name__} {error}"
        return [fail(name, " ".join(words.split()), "see whether what is said of others explains it")]
