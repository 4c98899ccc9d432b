"""What a check says: how it is, in words, and what to do where it is not well."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row. `remedy` says what to do; empty where nothing is to be done."""

    check: str
    state: State
    words: str
    remedy: str = ""

    @property
    def as_dict(self) -> dict[str, str]:
        """For --json."""
        return {"check": self.check, "state": self.state.value, "found": self.words, "remedy": self.remedy}


def ok(check: str, words: str) -> Finding:
    """All is well."""
    return Finding(check, State.OK, words)


def warn(check: str, words: str, remedy: str) -> Finding:
    """It works, and may not for long, or not as well as it could."""
    return Finding(check, State.WARN, words, remedy)


def fail(check: str, words: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check, State.FAIL, words, remedy)


def skip(check: str, words: str) -> Finding:
    """It was not looked at, with the reason."""
    return Finding(check, State.SKIP, words)
