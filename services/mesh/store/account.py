"""Whom PostgreSQL runs as: it refuses root, so a process of root hands it to an unprivileged account."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# A dedicated account wins; `nobody` exists everywhere. initdb looks its user up: a bare number will not do.
_CANDIDATES: Final = ("waymesh", "nobody", "daemon")


class AccountError(Exception):
    """PostgreSQL cannot run as anybody here. The text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """An existing, unprivileged account of the system."""

    name: str
    uid: int
    gid: int

    def can_pass(self, folder: Path) -> bool:
        """Whether this account may go through a folder, by its mode bits."""
        return self._allowed(folder, 0o1)

    def can_read(self, path: Path) -> bool:
        """Whether this account may read a file, its folders apart."""
        return self._allowed(path, 0o4)

    def blocked_by(self, path: Path) -> Path | None:
        """The first folder on the way to `path` that this account may not pass, or None."""
        for folder in reversed(path.parents):
            if not self.can_pass(folder):
                return folder
        return None

    def _allowed(self, path: Path, bit: int) -> bool:
        status = path.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & bit << 6)
        if status.st_gid == self.gid:
            return bool(status.st_mode & bit << 3)
        return bool(status.st_mode & bit)


def unprivileged_account() -> Account | None:
    """The account PostgreSQL runs as; None if this process is not root and PostgreSQL runs as it does."""
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise AccountError(
                f"user {os.geteuid()} has no entry in the list of accounts, which PostgreSQL asks for; "
                "add one, or set DATABASE_URL to a PostgreSQL server"
            ) from None
        return None
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise AccountError(
        f"PostgreSQL does not run as root and none of the accounts {', '.join(_CANDIDATES)} exists; "
        "add one, or set DATABASE_URL to a PostgreSQL server"
    )


def is_home(folder: Path) -> bool:
    """Whether a folder is somebody's home."""
    return any(Path(entry.pw_dir) == folder for entry in pwd.getpwall())
