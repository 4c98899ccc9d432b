"""Where commands find the services of a mesh."""

import os
from collections.abc import Mapping

from services.cli import environment, state
from services.cli.environment import service


def target(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """host:port of a service: as its variable says, else of the mesh on the data folder, else the default."""
    said = environ.get(f"WAYMESH_{name.upper()}_TARGET")
    if said:
        return said
    data_dir = environment.data_dir(environ)
    mesh = state.load(data_dir) if state.is_running(data_dir) else None
    if mesh is not None and name in mesh.services:
        return mesh.target(name)
    return f"{environment.LOOPBACK}:{service(name).port.default}"
