"""What is kept of who changed what: one form for the table and the log."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.mesh.principal import DEFAULT_TENANT
from services.mesh.redact import redact_text

_log = logging.getLogger("waymesh.audit")

DONE: Final = "done"
ALLOWED: Final = "allowed"
REFUSED: Final = "refused"

_SUBJECT: Final = 1024
_DETAIL: Final = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """`caller` did, or wanted to do, `action` to `subject`. Nothing in it is secret.

    `at` is the store's, once it is kept. `times` counts what was refused again and again.
    """

    action: str
    caller: str
    subject: str = ""
    outcome: str = DONE
    detail: str = ""
    tenant: str = DEFAULT_TENANT
    key_id: str = ""
    request_id: str = ""
    times: int = 1
    at: datetime | None = None

    def __post_init__(self) -> None:
        # Words of a caller may be in these two.
        object.__setattr__(self, "subject", redact_text(self.subject)[:_SUBJECT])
        object.__setattr__(self, "detail", redact_text(self.detail)[:_DETAIL])

    def fields(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "at": None if self.at is None else self.at.isoformat(),
            "tenant": self.tenant,
            "key_id": self.key_id,
            "caller": self.caller,
            "action": self.action,
            "subject": self.subject,
            "outcome": self.outcome,
            "detail": self.detail,
            "request_id": self.request_id,
            "times": self.times,
        }


def tell(entry: Entry) -> None:
    """One line in the log."""
    fields = {name: value for name, value in entry.fields().items() if value not in ("", None)}
    _log.log(
        logging.WARNING if entry.outcome == REFUSED else logging.INFO,
        "%s: %s",
        entry.action,
        entry.outcome,
        extra={"fields": fields},
    )
