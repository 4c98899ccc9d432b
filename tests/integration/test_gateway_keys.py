"""API keys: added and revoked while requests go on, kept hashed, known while PostgreSQL is away."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from gateway_rig import GPS, KEY, Client, gateway
from key_commands import keys
from key_rotation import rotate_under_load

from services.gateway.keys import Snapshot, digest_of
from services.mesh.store import connect
from tests.processes import until

SECRET = "wm_" + "k" * 32
AWAY = "postgresql://nobody@127.0.0.1:1/none"


async def status(client: Client, key: str) -> int:
    return (await client.task("report_gps", GPS, key=key)).status


async def refused(client: Client, key: str) -> None:
    """Returns once the key is refused; the guard only keeps a broken test from hanging."""
    async with asyncio.timeout(60):
        while await status(client, key) != 401:
            pass


async def test_a_key_works_as_soon_as_it_is_added_and_not_for_long_after_it_is_revoked(database: str) -> None:
    async with gateway(database_url=database) as rig:
        client = rig.client()
        assert await status(client, KEY) == 200
        code, key, told = await keys(database, "add", "partner")
        assert code == 0
        key = key.strip()
        assert key.startswith("wm_")
        assert "partner" in told
        assert await status(client, key) == 200
        code, listed, _ = await keys(database, "list")
        assert code == 0
        assert "partner" in listed
        assert "FASTAPI_API_KEY" in listed
        assert key not in listed
        code, revoked, _ = await keys(database, "revoke", "partner")
        assert (code, "partner" in revoked) == (0, True)
        await refused(client, key)
        assert await status(client, KEY) == 200
        assert client.connections == 1


async def test_only_a_digest_of_a_key_is_kept(database: str) -> None:
    async with gateway(database_url=database) as rig:
        _, key, _ = await keys(database, "add", "partner")
        assert await status(rig.client(), key.strip()) == 200
        snapshot = rig.gateway.settings.data_dir / "gateway" / "keys.json"
        await until(lambda: digest_of(key.strip().encode()).hex() in snapshot.read_text(), "the key is saved")
        connection = await connect(database)
        try:
            rows = str(await connection.fetch("SELECT * FROM gateway.api_keys"))
        finally:
            await connection.close()
        for kept in (rows, snapshot.read_text()):
            assert key.strip() not in kept
            assert KEY not in kept
        assert snapshot.stat().st_mode & 0o077 == 0


async def test_the_first_key_that_was_revoked_stays_revoked_at_the_next_start(database: str) -> None:
    async with gateway(database_url=database) as rig:
        await until(lambda: rig.gateway.keys.loaded.is_set(), "keys are loaded")
        client = rig.client()
        async with asyncio.timeout(60):
            while (await keys(database, "revoke", "FASTAPI_API_KEY"))[0]:
                pass
        await refused(client, KEY)
    async with gateway(database_url=database) as rig:
        await refused(rig.client(), KEY)


async def test_a_key_has_a_rate_of_its_own(database: str) -> None:
    async with gateway(database_url=database) as rig:
        _, key, _ = await keys(database, "add", "slow", "--rate", "0.01", "--burst", "2")
        client = rig.client()
        assert [await status(client, key.strip()) for _ in range(3)] == [200, 200, 429]
        assert await status(client, KEY) == 200


async def test_the_environments_key_counts_while_postgresql_is_away(tmp_path: Path) -> None:
    async with gateway(database_url=AWAY, data_dir=tmp_path) as rig:
        client = rig.client()
        assert await status(client, KEY) == 200
        assert await status(client, "wm_unknown") == 401
        assert (await client.ask("GET", "/health/ready")).status == 200


async def test_without_any_known_key_and_store_nobody_is_called_a_stranger(tmp_path: Path) -> None:
    async with gateway(database_url=AWAY, data_dir=tmp_path, api_key=None) as rig:
        client = rig.client()
        reply = await client.task("report_gps", GPS, key="wm_unknown")
        assert (reply.status, reply.json["reason"]) == (503, "STORE_UNAVAILABLE")
        assert "retry-after" in reply.headers
        assert (await client.ask("GET", "/health/ready")).json["status"] == "starting"


async def test_keys_seen_before_count_at_a_start_without_postgresql(database: str, tmp_path: Path) -> None:
    async with gateway(database_url=database, data_dir=tmp_path) as rig:
        _, key, _ = await keys(database, "add", "partner")
        _, gone, _ = await keys(database, "add", "former")
        assert await status(rig.client(), gone.strip()) == 200
        await keys(database, "revoke", "former")
        snapshot = Snapshot(tmp_path / "gateway" / "keys.json")
        await until(lambda: any(each.revoked_at for each in snapshot.load()), "the revocation is saved")
    async with gateway(database_url=AWAY, data_dir=tmp_path, api_key=None) as rig:
        client = rig.client()
        assert await status(client, key.strip()) == 200
        assert await status(client, gone.strip()) == 401


async def test_a_gateway_that_loses_postgresql_goes_on_with_the_keys_it_knows(database: str) -> None:
    async with gateway(database_url=database) as rig:
        _, key, _ = await keys(database, "add", "partner")
        client = rig.client()
        assert await status(client, key.strip()) == 200
        store = rig.gateway._store
        assert store is not None
        store.pool.terminate()
        await until(lambda: rig.gateway.keys.failure is not None, "the loss is noticed")
        assert await status(client, key.strip()) == 200
        assert await status(client, "wm_unknown") == 401
        health = await client.ask("GET", "/health")
        assert health.status == 200
        assert health.json["checks"]["keys"] != "ok"


async def test_keys_come_and_go_under_load_without_a_dropped_request(database: str) -> None:
    stop = asyncio.Event()
    done = 0

    async def load(client: Client) -> None:
        nonlocal done
        while not stop.is_set():
            assert await status(client, KEY) == 200
            done += 1

    async with gateway(database_url=database, rate_per_s=1_000_000, rate_burst=1_000_000) as rig:
        loads = [asyncio.create_task(load(rig.client())) for _ in range(4)]
        for n in range(3):
            code, key, _ = await keys(database, "add", f"partner {n}")
            assert code == 0
            assert await status(rig.client(), key.strip()) == 200
            assert (await keys(database, "revoke", f"partner {n}"))[0] == 0
        stop.set()
        await asyncio.gather(*loads)
        assert done > 100


async def test_a_key_is_rotated_under_load_without_a_failed_request(database: str) -> None:
    limits = {"rate_per_s": 1_000_000, "rate_burst": 1_000_000}
    async with (
        gateway(database_url=database, **limits) as one,
        gateway(database_url=database, api_key=None, **limits) as other,
    ):
        tally = await rotate_under_load(
            database, [one, other], rate_per_s=200, rotations=2, requests=300, spread_s=0.5
        )
    assert tally.failed == []
    assert tally.rotations >= 2


async def test_a_successor_is_what_its_key_was_and_the_old_one_ends(database: str) -> None:
    async with gateway(database_url=database) as rig:
        client = rig.client()
        words = ("--tenant", "acme", "--scope", "report_*", "--burst", "7", "--under-way", "3")
        _, old, _ = await keys(database, "add", "partner", *words)
        code, new, told = await keys(database, "rotate", "partner", "--overlap", "2s")
        assert code == 0
        assert "is valid now and is not shown again" in told
        assert await status(client, new.strip()) == 200
        await refused(client, old.strip())
        assert await status(client, new.strip()) == 200
        store = rig.gateway.keys.store
        assert store is not None
        first, second = [key for key in await store.all() if key.name == "partner"]
        kept = ("tenant", "scopes", "rate", "under_way")
        assert [getattr(first, each) for each in kept] == [getattr(second, each) for each in kept]
        assert (second.tenant, second.scopes, second.under_way) == ("acme", ("report_*",), 3)
        assert second.expires_at is None


async def test_the_end_of_a_key_is_moved_and_its_successor_lives_as_long(database: str) -> None:
    connection = await connect(database)

    async def lives() -> list[timedelta | None]:
        rows = await connection.fetch(
            "SELECT expires_at - created_at AS span FROM gateway.api_keys ORDER BY created_at"
        )
        return [row["span"] for row in rows]

    try:
        assert (await keys(database, "add", "partner", "--expires", "30d"))[0] == 0
        assert (await keys(database, "rotate", "partner", "--overlap", "1h"))[0] == 0
        [first, second] = await lives()
        assert first is not None
        assert second == pytest.approx(timedelta(days=30), abs=timedelta(minutes=5))
        assert first < timedelta(hours=2)
        newest = await connection.fetchval(
            "SELECT key_id FROM gateway.api_keys ORDER BY created_at DESC LIMIT 1"
        )
        assert (await keys(database, "change", newest, "--expires", "never"))[0] == 0
        assert (await lives())[1] is None
    finally:
        await connection.close()


async def test_a_successor_that_would_not_outlive_its_key_is_refused(database: str) -> None:
    assert (await keys(database, "add", "partner"))[0] == 0
    for expires, overlap in (("1h", ("--overlap", "2h")), ("24h", ())):
        code, out, err = await keys(database, "rotate", "partner", "--expires", expires, *overlap)
        assert (code, out) == (1, "")
        assert err.startswith("waymesh: --expires would end the successor at")
        assert err.endswith(": give a later --expires or a shorter --overlap\n")
    _, listed, _ = await keys(database, "list")
    assert [line.split()[1] for line in listed.splitlines()[1:]] == ["partner"]
    assert (await keys(database, "rotate", "partner", "--expires", "2h", "--overlap", "1h"))[0] == 0


async def test_what_a_key_can_be_used_for_is_listed_without_a_database(tmp_path: Path) -> None:
    code, told, _ = await keys("", "scopes", data_dir=tmp_path)
    assert code == 0
    lines = {line.split()[0]: line for line in told.splitlines()}
    assert {"predict_eta", "stream_gps", "create_agent", "*", "admin"} <= set(lines)
    assert lines["silence_alert"].endswith("for operators: needs the scope admin")


async def test_many_wrong_keys_do_not_become_many_queries(database: str) -> None:
    async with gateway(database_url=database) as rig:
        await until(lambda: rig.gateway._store is not None, "the store is open")
        client = rig.client()
        assert await status(client, "wm_wrong") == 401
        sync = rig.gateway.keys
        looks = 0
        refresh = sync._refresh

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await refresh()

        sync._refresh = counted  # type: ignore[method-assign]
        clients = [rig.client() for _ in range(50)]
        found = await asyncio.gather(*(status(each, f"wm_wrong_{n}") for n, each in enumerate(clients)))
        assert found == [401] * 50
        assert looks <= 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("revoke", "nobody"), "no valid key has the id or name 'nobody'"),
        (("add", ""), "1 to 128 printable characters"),
        (("add", "x", "--rate", "-1"), "above 0"),
        (("add", "x", "--rate", "fast"), "above 0"),
        (("add", "x", "--under-way", "0"), "from 1 to 1000000"),
        (("add", "x", "--expires", "2001-01-01T00:00:00Z"), "must be in the future"),
        (("add", "x", "--expires", "soon"), "such as 15m, 24h or 30d"),
        (("add", "x", "--scope", "get_ordre"), "near it are get_order"),
        (("add", "x", "--scope", "silence_alert"), "give the scope admin"),
        (("change", "nobody", "--scope", "*"), "no valid key has the id or name 'nobody'"),
        (("rotate", "nobody"), "no valid key has the id or name 'nobody'"),
        (("change", "nobody"), "nothing to change: give --scope"),
        (("change", SECRET, "--rate", "5"), "that is a key itself; give its id or name"),
        (("revoke", SECRET), "that is a key itself; give its id or name"),
        (("add", SECRET), "waymesh: name must not be a secret"),
        (("add", "x", "--tenant", "A B"), "waymesh: --tenant must be 1 to 64 letters"),
        (("add", "x", "--expires", "2020-01-01"), "must be in the future (see `waymesh keys add --help`)"),
        (("frob",), "invalid choice"),
    ],
)
async def test_a_wrong_command_says_what_to_do(database: str, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = await keys(database, *arguments)
    assert code != 0
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert SECRET not in err


async def test_two_keys_of_one_name_are_revoked_by_id(database: str) -> None:
    await keys(database, "add", "twin")
    await keys(database, "add", "twin")
    code, _, err = await keys(database, "revoke", "twin")
    assert code == 1
    assert "revoke one by its id" in err


async def test_without_a_database_the_command_says_where_to_get_one(tmp_path: Path) -> None:
    code, _, err = await keys("", "list", data_dir=tmp_path)
    assert code == 1
    assert "DATABASE_URL" in err
    assert err.count("\n") == 1
    code, _, err = await keys(AWAY, "list")
    assert code == 1
    assert err.count("\n") == 1
