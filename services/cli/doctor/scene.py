"""What a visit looks at: the settings of this environment, and where they say that everything is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli import environment, state, targets

if TYPE_CHECKING:
    from services.mesh.settings import MeshSettings
    from services.mesh.tls.files import Credentials


@dataclass(frozen=True, slots=True)
class Scene:
    """`dsn` is None if no database is known, `tls` if connections are plain."""

    environ: Mapping[str, str]
    settings: "MeshSettings"
    data_dir: Path
    dsn: str | None
    tls: "Credentials | None"

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> "Scene":
        """Raises SettingsError if a variable holds what it may not."""
        from services.mesh.settings import MeshSettings, load
        from services.mesh.tls import files
        from services.mesh.tls.settings import files_of

        data_dir = environment.data_dir(environ)
        settings = load(MeshSettings, data_dir=data_dir)
        dsn = settings.database_url
        if dsn is None and state.is_running(data_dir):
            dsn = state.running(data_dir).dsn
        named = files_of(settings)
        return cls(environ, settings, data_dir, dsn, None if named is None else files.read(named))

    def target(self, service: str) -> str:
        """Where a service is, as other commands find it."""
        return targets.target(service, self.environ)
