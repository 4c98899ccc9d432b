"""`python -m services.mesh.settings_check SERVICE…`: whether the environment is one that they can start in.

With `--names` first, the names of all variables that they read come before that, in one line.

A process of its own, since reading settings takes a library that who starts services can do without. Somebody
waits for it, so it neither collects garbage nor cleans up.
"""

import gc
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.mesh.settings import MeshSettings


NAMES: Final = "--names"


def main(arguments: list[str]) -> int:
    """0 if all settings are right; else 1, and one line about the first that is wrong."""
    from services.mesh.settings import SettingsError, load

    tells_names = arguments[:1] == [NAMES]
    classes = [_settings(name) for name in (arguments[1:] if tells_names else arguments)]
    if tells_names:
        known = frozenset[str]().union(*(each.variables() for each in classes))
        sys.stdout.write(f"{' '.join(sorted(known))}\n")
    try:
        for each in classes:
            load(each)
    except SettingsError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


def _settings(service: str) -> "type[MeshSettings]":
    module = import_module(f"services.{service}.settings")
    found: type[MeshSettings] = getattr(module, f"{service.capitalize()}Settings")
    return found


if __name__ == "__main__":
    gc.disable()
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
