"""`python -m services.gateway keys …`: API keys and their audit log, while gateways are running or not."""

import argparse
import asyncio
import dataclasses
import getpass
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg

from services.gateway import audit, command_arguments, rpcs, scopes
from services.gateway.audit import Entry
from services.gateway.keys import ApiKey, digest_of, new_key
from services.gateway.limits import Rate
from services.gateway.settings import GatewaySettings
from services.gateway.store import MIGRATIONS, SCHEMA, KeyStore
from services.mesh.errors import MeshError
from services.mesh.principal import ADMIN
from services.mesh.redact import redact_forms
from services.mesh.settings import SettingsError, load
from services.mesh.store import MigrationError, Store, running_dsn

_CONNECT_S = 5.0

Command = Callable[[argparse.Namespace, KeyStore, GatewaySettings], Awaitable[int]]


def main(arguments: Sequence[str]) -> int:
    """Runs one command; its exit code. Errors are one line on stderr."""
    parser, commands = command_arguments.parser()
    for words, command in commands.items():
        command.set_defaults(words=words)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # what matters is said in one line at the end
    try:
        settings = load(GatewaySettings)
        return asyncio.run(_run(options, settings))
    except (SettingsError, MigrationError, MeshError) as error:
        return _fail(str(error))
    except (asyncpg.PostgresError, OSError) as error:
        return _fail(f"the database refuses: {error}")


async def _run(options: argparse.Namespace, settings: GatewaySettings) -> int:
    if options.words == "keys scopes":
        return _scopes()
    dsn = settings.database_url or running_dsn(settings.data_dir)
    if dsn is None:
        return _fail(
            f"there is no database: set DATABASE_URL, or run `waymesh up` on {settings.data_dir} first"
        )
    store = await Store.open(dsn, schema=SCHEMA, migrations=MIGRATIONS, max_size=1, connect_s=_CONNECT_S)
    try:
        command = _COMMANDS[options.words]
        return await command(options, KeyStore(store), settings)
    finally:
        await store.close()


async def _add(options: argparse.Namespace, store: KeyStore, settings: GatewaySettings) -> int:
    wanted = tuple(dict.fromkeys(options.scope or scopes.DEFAULT))
    wrong = scopes.faults(wanted, rpcs.load().values())
    if wrong:
        return await _refuse(store, options, options.name, "; ".join(wrong))
    key = new_key()
    kept = ApiKey(
        digest_of(key.encode()),
        options.name,
        _rate(options, None, settings),
        tenant=options.tenant,
        scopes=wanted,
        expires_at=_end(options.expires, None),
        under_way=options.under_way,
    )
    await store.add(kept, _entry(options, kept, _told(kept)))
    _say(key)
    ends = "" if kept.expires_at is None else f" until {_time(kept.expires_at)}"
    _add_words(f"key {kept.key_id} ({options.name}) is valid now{ends}; it is not shown again")
    return 0


async def _list(_options: argparse.Namespace, store: KeyStore, settings: GatewaySettings) -> int:
    keys = await store.all()
    names = max([24, *(len(key.name) for key in keys)])
    tenants = max([16, *(len(key.tenant) for key in keys)])
    _say(
        f"{'ID':<12}  {'NAME':<{names}}  {'TENANT':<{tenants}}  "
        f"{'REQUESTS/S':>10}  {'BURST':>7}  {'UNDER WAY':>9}  {'ADDED':<20}  {'STATE':<28}  SCOPES"
    )
    for key in keys:
        rate = key.rate or Rate(settings.rate_per_s, settings.rate_burst)
        held = f"{key.key_id}  {key.name:<{names}}  {key.tenant:<{tenants}}"
        limits = f"{rate.per_s:>10g}  {rate.burst:>7}  {key.under_way or 'any':>9}"
        _say(f"{held}  {limits}  {_time(key.created_at):<20}  {_state(key):<28}  {' '.join(key.scopes)}")
    return 0


def _scopes() -> int:
    known = sorted(rpcs.load().values(), key=lambda rpc: (rpc.owner, rpc.scope))
    _say(f"{'SCOPE':<28}  {'SERVICE':<10}  WHAT")
    for rpc in known:
        what = (
            "for operators: needs the scope admin" if rpc.admin else "stream, by gRPC" if rpc.streams else ""
        )
        _say(f"{rpc.scope:<28}  {rpc.owner:<10}  {what}".rstrip())
    _say(f"{scopes.ALL:<28}  {'all':<10}  everything but what is for operators; get_* is all that begins so")
    _say(f"{ADMIN:<28}  {'all':<10}  what is for operators, and nothing else")
    return 0


async def _change(options: argparse.Namespace, store: KeyStore, settings: GatewaySettings) -> int:
    asked = (options.scope, options.rate, options.burst, options.under_way, options.expires)
    if all(each is None for each in asked):
        return _fail("nothing to change: give --scope, --rate, --burst, --under-way or --expires")
    old = await _one(options, store)
    if isinstance(old, str):
        return await _refuse(store, options, options.key, old)
    wanted = old.scopes if options.scope is None else tuple(dict.fromkeys(options.scope))
    wrong = [] if options.scope is None else scopes.faults(wanted, rpcs.load().values())
    if wrong:
        return await _refuse(store, options, options.key, "; ".join(wrong))
    new = dataclasses.replace(
        old,
        scopes=wanted,
        rate=_rate(options, old.rate, settings),
        expires_at=_end(options.expires, old.expires_at),
        under_way=options.under_way or old.under_way,
    )
    if not await store.change(new, _entry(options, new, f"{_told(old)} → {_told(new)}")):
        return await _refuse(store, options, options.key, "the key was revoked meanwhile")
    _say(f"key {new.key_id} ({new.name}) has {_told(new)}")
    return 0


async def _rotate(options: argparse.Namespace, store: KeyStore, _settings: GatewaySettings) -> int:
    old = await _one(options, store)
    if isinstance(old, str):
        return await _refuse(store, options, options.key, old)
    key = new_key()
    now = datetime.now(UTC)
    until = now + options.overlap
    # A key that was made for so long is followed by one for as long.
    ends = None
    if old.expires_at is not None and old.created_at is not None:
        ends = now + (old.expires_at - old.created_at)
    ends = _end(options.expires, ends)
    last = until if old.expires_at is None else min(until, old.expires_at)
    if options.expires is not None and ends is not None and ends <= last:
        why = (
            f"--expires would end the successor at {_time(ends)}, --overlap the old key at {_time(last)}: "
            "give a later --expires or a shorter --overlap"
        )
        return await _refuse(store, options, options.key, why)
    new = dataclasses.replace(old, digest=digest_of(key.encode()), created_at=None, expires_at=ends)
    entry = _entry(options, new, f"follows {old.key_id}, which ends {_time(until)}")
    if not await store.succeed(old.key_id, until, new, entry):
        return await _refuse(store, options, options.key, "the key was revoked meanwhile")
    _say(key)
    _add_words(
        f"key {new.key_id} ({new.name}) is valid now and is not shown again; {old.key_id} ends {_time(last)}"
    )
    return 0


async def _revoke(options: argparse.Namespace, store: KeyStore, _settings: GatewaySettings) -> int:
    old = await _one(options, store)
    if isinstance(old, str):
        return await _refuse(store, options, options.key, old)
    await store.revoke(old.key_id, _entry(options, old, ""))
    _say(f"key {old.key_id} ({old.name}) is revoked")
    return 0


async def _audit(options: argparse.Namespace, store: KeyStore, _settings: GatewaySettings) -> int:
    entries = await store.notes(options.since, options.limit)
    if options.json:
        for entry in entries:
            _say(json.dumps(entry.fields(), ensure_ascii=False))
        return 0
    _say(f"{'AT':<20}  {'TENANT':<16}  {'WHO':<28}  {'WHAT':<16}  {'OUTCOME':<8}  ABOUT")
    for entry in entries:
        who = f"{entry.caller} {entry.key_id}".strip()
        about = "; ".join(each for each in (entry.subject, entry.detail) if each)
        often = f" ({entry.times} times)" if entry.times > 1 else ""
        line = f"{_time(entry.at):<20}  {entry.tenant:<16}  {who:<28}  {entry.action:<16}  {entry.outcome:<8}"
        _say(f"{line}  {about}{often}".rstrip())
    return 0


_COMMANDS: Final[Mapping[str, Command]] = {
    "keys add": _add,
    "keys list": _list,
    "keys change": _change,
    "keys rotate": _rotate,
    "keys revoke": _revoke,
    "audit list": _audit,
}


async def _one(options: argparse.Namespace, store: KeyStore) -> ApiKey | str:
    """The valid key that is meant, or why there is none."""
    now = datetime.now(UTC)
    valid = [
        key
        for key in await store.all()
        if key.revoked_at is None and (key.expires_at is None or key.expires_at > now)
    ]
    by_id = [key for key in valid if key.key_id == options.key]
    named = by_id or [key for key in valid if key.name == options.key]
    if not named and redact_forms(options.key) != options.key:
        return "that is a key itself; give its id or name, as `keys list` shows them"
    if not named:
        return f"no valid key has the id or name '{options.key}'; see `keys list`"
    if len(named) > 1:
        ids = ", ".join(key.key_id for key in named)
        verb = options.words.removeprefix("keys ")
        return f"{len(named)} valid keys have the name '{options.key}': {verb} one by its id ({ids})"
    return named[0]


async def _refuse(store: KeyStore, options: argparse.Namespace, subject: str, why: str) -> int:
    await store.note(Entry(options.words, _caller(), subject, audit.REFUSED, why))
    return _fail(why)


def _entry(options: argparse.Namespace, key: ApiKey, detail: str) -> Entry:
    return Entry(options.words, _caller(), f"{key.key_id} ({key.name})", detail=detail, tenant=key.tenant)


def _caller() -> str:
    """Whoever runs the command, as the system knows him."""
    try:
        return f"command:{getpass.getuser()}"[:128]
    except (KeyError, OSError):
        return "command"


def _rate(options: argparse.Namespace, old: Rate | None, settings: GatewaySettings) -> Rate | None:
    if options.rate is None and options.burst is None:
        return old
    base = old or Rate(settings.rate_per_s, settings.rate_burst)
    return Rate(options.rate or base.per_s, options.burst or base.burst)


def _end(asked: datetime | None, otherwise: datetime | None) -> datetime | None:
    if asked is None:
        return otherwise
    return None if asked == command_arguments.NEVER else asked


def _told(key: ApiKey) -> str:
    """What a key may do, in words."""
    parts = [f"scopes {' '.join(key.scopes)}"]
    if key.rate is not None:
        parts.append(f"{key.rate.per_s:g} requests/s, burst {key.rate.burst}")
    if key.under_way is not None:
        parts.append(f"{key.under_way} under way")
    if key.expires_at is not None:
        parts.append(f"ends {_time(key.expires_at)}")
    return ", ".join(parts)


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {_time(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'ends' if key.expires_at > datetime.now(UTC) else 'ended'} {_time(key.expires_at)}"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _add_words(line: str) -> None:
    sys.stderr.write(line + "\n")


def _fail(line: str) -> int:
    # A whole key, where its id was asked for, is not shown again.
    sys.stderr.write(f"waymesh: {redact_forms(line)}\n")
    return 1
