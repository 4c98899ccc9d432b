"""Nothing secret of this environment is in what is printed, whoever put it into an error's words."""

from collections.abc import Mapping
from typing import Final

from services.mesh.redact import MASK, redact_setting, secrets_in_address
from services.mesh.secret_names import is_secret_name

# Anything shorter would also be found in words that hold no secret.
_SHORTEST: Final = 4


class Veil:
    """Puts a mask where a secret stands. Of an address, all but its password stays."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        shown: dict[str, str] = {}
        for name, value in environ.items():
            if "://" in value:
                shown |= dict.fromkeys(secrets_in_address(value), MASK)
                shown.setdefault(value, redact_setting(name, value))
            elif is_secret_name(name):
                shown[value] = MASK
        whole = (one for one in shown if len(one) >= _SHORTEST)
        self._shown = {one: shown[one] for one in sorted(whole, key=len, reverse=True)}

    def __call__(self, text: str) -> str:
        for secret, shown in self._shown.items():
            text = text.replace(secret, shown)
        return text
