"""The first API key of a mesh: FASTAPI_API_KEY, or one made once and kept in the data folder."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from services.cli.errors import CliError
from services.cli.state import KEY_FILE


def first_key(data_dir: Path, environ: Mapping[str, str] = os.environ) -> str:
    """The key from the environment, from the folder, or a fresh one written there for its owner alone."""
    given = environ.get("FASTAPI_API_KEY")
    if given:
        return given
    path = data_dir / KEY_FILE
    try:
        kept = path.read_text("ascii").strip()
        if kept:
            return kept
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(
            f"{path} cannot be read: give it back to this user, or delete it for a new key"
        ) from error
    key = f"wm_{secrets.token_urlsafe(24)}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        file.write(key + "\n")
    return key
