"""The entry of a service's process: settings, store, the service, its life."""

import logging
from collections.abc import Callable
from typing import NoReturn, TypeVar

from services.mesh import logs
from services.mesh.lifecycle import run_process
from services.mesh.service import GrpcService
from services.mesh.settings import GrpcSettings, SettingsError, describe, load
from services.mesh.store import running_dsn
from services.mesh.tls.files import FilesError

S = TypeVar("S", bound=GrpcSettings)

_log = logging.getLogger(__name__)


def run_service(name: str, settings_class: type[S], make: Callable[[S, str], GrpcService[S]]) -> NoReturn:
    """Serves until a signal and exits: 0 after a clean end, 1 with one clear line if it could not start.

    `make` gets the settings and the DSN of the store: DATABASE_URL, or that of the `waymesh up` that runs in
    the data folder.
    """

    async def serve() -> int:
        try:
            settings = load(settings_class)
            dsn = settings.database_url or running_dsn(settings.data_dir)
            if dsn is None:
                raise SettingsError(
                    "DATABASE_URL is not set and no `waymesh up` runs in "
                    f"{settings.data_dir} (WAYMESH_DATA_DIR)"
                )
        except SettingsError as error:
            logs.configure(name)
            _log.error("%s", error)
            return 1
        logs.configure(name, settings.log_level)
        _log.info("%s starts", name, extra={"settings": describe(settings)})
        try:
            service = make(settings, dsn)
        except FilesError as error:  # changed since the settings were read
            _log.error("%s", error)
            return 1
        return await service.lifecycle.run(service.server)

    run_process(serve)
