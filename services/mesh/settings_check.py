"""`python -m services.mesh.settings_check SERVICE…`: whether the environment is one that they can start in.

A process of its own, since reading settings takes a library that who starts services can do without.
"""

import sys
from importlib import import_module

from services.mesh.settings import SettingsError, load


def main(names: list[str]) -> int:
    """0 if all settings are right; else 1, and one line about the first that is wrong."""
    try:
        for name in names:
            module = import_module(f"services.{name}.settings")
            load(getattr(module, f"{name.capitalize()}Settings"))
    except SettingsError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
