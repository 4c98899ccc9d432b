"""Nothing secret of this environment is in what is printed, whoever put it into an error's words."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from services.mesh.redact import MASK
from services.mesh.secret_names import is_secret_name

# Anything shorter would also be found in words that hold no secret.
_SHORTEST: Final = 4


class Veil:
    """Puts a mask where a secret stands."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        found: set[str] = set()
        for name, value in environ.items():
            if is_secret_name(name):
                found.add(value)
            if "://" in value:
                found |= _passwords(value)
        self._secrets = sorted((one for one in found if len(one) >= _SHORTEST), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text


def _passwords(url: str) -> set[str]:
    try:
        password = urlsplit(url).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()
