"""`python -m services.mesh.settings_check SERVICE…`: whether the environment is one that they can start in.

A process of its own, since reading settings takes a library that who starts services can do without. Somebody
waits for it, so it neither collects garbage nor cleans up.
"""

import gc
import os
import sys
from importlib import import_module


def main(names: list[str]) -> int:
    """0 if all settings are right; else 1, and one line about the first that is wrong."""
    from services.mesh.settings import SettingsError, load

    try:
        for name in names:
            module = import_module(f"services.{name}.settings")
            load(getattr(module, f"{name.capitalize()}Settings"))
    except SettingsError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    gc.disable()
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
