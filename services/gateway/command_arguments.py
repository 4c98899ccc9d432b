"""The words of `python -m services.gateway keys …` and `audit …`."""

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

from services.mesh.principal import DEFAULT_TENANT, is_name, is_tenant
from services.mesh.redact import redact_forms

_SPAN: Final = re.compile(r"(\d{1,6})\s?(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MOST: Final = timedelta(days=3660)
# As `--expires never` has it.
NEVER: Final = datetime.max.replace(tzinfo=UTC)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the rest of the command line does."""

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("argument ")
        if words != message:
            words = words.replace(": ", " ", 1)
        self.exit(2, f"waymesh: {redact_forms(words)} (see `{self.prog} --help`)\n")


def name(text: str) -> str:
    """Of a key."""
    if not is_name(text):
        raise argparse.ArgumentTypeError("must be 1 to 128 printable characters")
    if redact_forms(text) != text:
        raise argparse.ArgumentTypeError("must not be a secret: names are shown")
    return text


def tenant(text: str) -> str:
    """Of a key."""
    if not is_tenant(text):
        raise argparse.ArgumentTypeError(
            "must be 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    return text


def positive(text: str) -> float:
    """Requests a second."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1000000")
    return value


def count(text: str) -> int:
    """Requests at once."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000000")
    return int(text)


def span(text: str) -> timedelta:
    """`90s`, `15m`, `24h`, `30d`."""
    match = _SPAN.fullmatch(text)
    found = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match is not None else None
    if found is None or found > _MOST:
        raise argparse.ArgumentTypeError("must be a time such as 90s, 15m, 24h or 30d, at most 3660d")
    return found


def end(text: str) -> datetime:
    """A span from now on, a moment to come, or never."""
    if text == "never":
        return NEVER
    found = _moment(text, lambda given: datetime.now(UTC) + given)
    if found <= datetime.now(UTC):
        raise argparse.ArgumentTypeError("must be in the future")
    return found


def since(text: str) -> datetime:
    """A span before now, or a moment."""
    return _moment(text, lambda given: datetime.now(UTC) - given)


def _moment(text: str, at: Callable[[timedelta], datetime]) -> datetime:
    if _SPAN.fullmatch(text):
        return at(span(text))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "must be a time such as 15m, 24h or 30d, or a moment such as 2026-01-31T00:00:00Z"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of both commands, and those of what they can do, by `keys add`."""
    whole = _Parser(prog="waymesh", description="API keys of the gateway, and who changed what.")
    groups = whole.add_subparsers(required=True, metavar="keys|audit")
    keys = groups.add_parser("keys", help="API keys of the gateway")
    commands = keys.add_subparsers(required=True, metavar="add|list|scopes|change|rotate|revoke")
    add = commands.add_parser("add", help="make a key and show it, once")
    add.add_argument("name", type=name, help="whom it is for, 1 to 128 characters")
    add.add_argument(
        "--tenant",
        type=tenant,
        default=DEFAULT_TENANT,
        help=f"whose data it works with, for good; '{DEFAULT_TENANT}' without",
    )
    _limits(add, "everything that is not for operators without")
    change = commands.add_parser("change", help="give a key other scopes, limits, or another end")
    _key(change)
    _limits(change, "as they are without")
    rotate = commands.add_parser(
        "rotate", help="make a successor and show it, once; the old key ends after --overlap"
    )
    _key(rotate)
    rotate.add_argument(
        "--overlap",
        type=span,
        default=timedelta(days=1),
        help="how long the old key stays valid; 24h without",
    )
    rotate.add_argument(
        "--expires", type=end, help="when the successor ends; after as long as the old without"
    )
    revoke = commands.add_parser("revoke", help="refuse a key from now on, for good")
    _key(revoke)
    audit = groups.add_parser("audit", help="who changed what")
    listed = audit.add_subparsers(required=True, metavar="list").add_parser("list", help="newest first")
    listed.add_argument("--since", type=since, help="as 15m, 24h, 30d ago, or a moment; all without")
    listed.add_argument("--limit", type=count, default=100, help="entries at most; 100 without")
    listed.add_argument("--json", action="store_true", help="one JSON object a line")
    return whole, {
        "keys add": add,
        "keys list": commands.add_parser("list", help="show all keys, never a key itself"),
        "keys scopes": commands.add_parser("scopes", help="show what a key can be used for"),
        "keys change": change,
        "keys rotate": rotate,
        "keys revoke": revoke,
        "audit list": listed,
    }


def _key(command: argparse.ArgumentParser) -> None:
    command.add_argument("key", metavar="ID|NAME", help="id or name as `keys list` shows it")


def _limits(command: argparse.ArgumentParser, otherwise: str) -> None:
    command.add_argument(
        "--scope",
        action="append",
        metavar="TASK|PATTERN|admin",
        help=f"what it may be used for, such as get_*; several may be given; {otherwise}",
    )
    command.add_argument("--rate", type=positive, help="requests a second; the gateway's default without")
    command.add_argument("--burst", type=count, help="requests at once; the gateway's default without")
    command.add_argument("--under-way", type=count, help="requests under way at a time; any number without")
    command.add_argument("--expires", type=end, help="when it ends: in 24h, 30d, at a moment, or never")
