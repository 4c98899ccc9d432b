"""`python -m services.gateway keys …`: add, list and revoke API keys, while gateways are running or not."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import asyncpg

from services.gateway.keys import ApiKey, digest_of, new_key
from services.gateway.limits import Rate
from services.gateway.settings import GatewaySettings
from services.gateway.store import MIGRATIONS, SCHEMA, KeyStore
from services.mesh.errors import MeshError
from services.mesh.principal import DEFAULT_TENANT, is_tenant
from services.mesh.settings import SettingsError, load
from services.mesh.store import MigrationError, Store, running_dsn

_CONNECT_S = 5.0


def main(arguments: Sequence[str]) -> int:
    """Runs one command; its exit code. Errors are one line on stderr."""
    options = _parser().parse_args(arguments)
    logging.disable(logging.WARNING)  # what matters is said in one line at the end
    try:
        settings = load(GatewaySettings)
        return asyncio.run(_run(options, settings))
    except (SettingsError, MigrationError, MeshError) as error:
        return _fail(str(error))
    except (asyncpg.PostgresError, OSError) as error:
        return _fail(f"the database refuses: {error}")


async def _run(options: argparse.Namespace, settings: GatewaySettings) -> int:
    dsn = settings.database_url or running_dsn(settings.data_dir)
    if dsn is None:
        return _fail(
            f"there is no database: set DATABASE_URL, or run `waymesh up` on {settings.data_dir} first"
        )
    store = await Store.open(dsn, schema=SCHEMA, migrations=MIGRATIONS, max_size=1, connect_s=_CONNECT_S)
    try:
        command: Callable[[argparse.Namespace, KeyStore, GatewaySettings], Awaitable[int]] = options.run
        return await command(options, KeyStore(store), settings)
    finally:
        await store.close()


async def _add(options: argparse.Namespace, store: KeyStore, settings: GatewaySettings) -> int:
    rate = None
    if options.rate is not None or options.burst is not None:
        rate = Rate(options.rate or settings.rate_per_s, options.burst or settings.rate_burst)
    key = new_key()
    kept = ApiKey(digest_of(key.encode()), options.name, rate, tenant=options.tenant)
    await store.add(kept)
    _say(f"{key}")
    sys.stderr.write(f"key {kept.key_id} ({options.name}) is valid now; it is not shown again\n")
    return 0


async def _list(_options: argparse.Namespace, store: KeyStore, settings: GatewaySettings) -> int:
    keys = await store.all()
    _say(f"{'ID':<12}  {'NAME':<24}  {'TENANT':<16}  {'REQUESTS/S':>10}  {'BURST':>7}  {'ADDED':<20}  STATE")
    for key in keys:
        rate = key.rate or Rate(settings.rate_per_s, settings.rate_burst)
        state = "valid" if key.revoked_at is None else f"revoked {_time(key.revoked_at)}"
        added = _time(key.created_at)
        held = f"{key.key_id}  {key.name:<24}  {key.tenant:<16}"
        _say(f"{held}  {rate.per_s:>10g}  {rate.burst:>7}  {added:<20}  {state}")
    return 0


async def _revoke(options: argparse.Namespace, store: KeyStore, _settings: GatewaySettings) -> int:
    same = [key for key in await store.all() if key.revoked_at is None]
    named = [key for key in same if options.key in (key.key_id, key.name)]
    if not named:
        return _fail(f"no valid key has the id or name '{options.key}'; see `keys list`")
    if len(named) > 1 and options.key not in (key.key_id for key in named):
        ids = ", ".join(key.key_id for key in named)
        return _fail(f"{len(named)} valid keys have the name '{options.key}': revoke one by its id ({ids})")
    for key in named:
        await store.revoke(key.key_id)
        _say(f"key {key.key_id} ({key.name}) is revoked")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="waymesh", description="API keys of the gateway.")
    keys = parser.add_subparsers(required=True).add_parser("keys", help="API keys of the gateway")
    commands = keys.add_subparsers(required=True, metavar="add|list|revoke")
    add = commands.add_parser("add", help="make a key and show it, once")
    add.add_argument("name", type=_name, help="whom it is for, 1 to 128 characters")
    add.add_argument(
        "--tenant",
        type=_tenant,
        default=DEFAULT_TENANT,
        help=f"whose agents and runs it works with; '{DEFAULT_TENANT}' without",
    )
    add.add_argument("--rate", type=_positive, help="requests a second; the gateway's default without")
    add.add_argument("--burst", type=_count, help="requests at once; the gateway's default without")
    add.set_defaults(run=_add)
    commands.add_parser("list", help="show all keys, never a key itself").set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="refuse a key from now on, for good")
    revoke.add_argument("key", metavar="ID|NAME", help="id or name as `keys list` shows it")
    revoke.set_defaults(run=_revoke)
    return parser


def _name(text: str) -> str:
    if not 1 <= len(text) <= 128 or not text.isprintable():
        raise argparse.ArgumentTypeError("must be 1 to 128 printable characters")
    return text


def _tenant(text: str) -> str:
    if not is_tenant(text):
        raise argparse.ArgumentTypeError(
            "must be 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    return text


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1000000")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000000")
    return value


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _fail(line: str) -> int:
    sys.stderr.write(f"waymesh: {line}\n")
    return 1
