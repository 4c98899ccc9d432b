"""Who changed what is kept, cannot be changed afterwards, and says no secret."""

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from gateway_rig import KEY, Rig, gateway
from key_commands import keys, ran
from waymesh.feedback.v1.alert_pb2 import SilenceAlertResponse

from services.gateway.audit import Entry
from services.gateway.keys import ApiKey, digest_of
from services.mesh.errors import NotFound
from services.mesh.store import connect
from tests.processes import until

SILENCE = {"alert_key": "error_rate/eta", "duration_s": 60, "author": "ops"}
PLAIN = "wm_plain"


async def silenced(request: Any, _context: Any) -> SilenceAlertResponse:
    return SilenceAlertResponse(alert_key=request.alert_key)


async def listed(database: str, *more: str) -> list[dict[str, Any]]:
    """What `waymesh audit list` tells, newest first."""
    code, out, err = await ran(database, "audit", "list", "--json", *more)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


async def entries(database: str) -> list[dict[str, Any]]:
    """The same, straight from the table."""
    connection = await connect(database)
    try:
        rows = await connection.fetch("SELECT * FROM gateway.audit_log ORDER BY audit_id DESC")
    finally:
        await connection.close()
    return [dict(row) for row in rows]


async def plain_key(rig: Rig, tenant: str = "acme") -> ApiKey:
    """A key that is no operator's."""
    await until(lambda: rig.gateway.keys.store is not None, "the store is open")
    store = rig.gateway.keys.store
    assert store is not None
    key = ApiKey(digest_of(PLAIN.encode()), "partner", tenant=tenant)
    await store.add(key, Entry("keys add", "test"))
    return key


async def test_each_change_of_keys_is_told_with_who_what_and_when(database: str) -> None:
    began = datetime.now(UTC)
    _, key, _ = await keys(database, "add", "partner", "--tenant", "acme", "--scope", "get_*")
    assert (await keys(database, "change", "partner", "--scope", "ask", "--rate", "5"))[0] == 0
    _, successor, _ = await keys(database, "rotate", "partner", "--overlap", "1h")
    assert (await keys(database, "revoke", digest_of(key.strip().encode()).hex()[:12]))[0] == 0
    assert (await keys(database, "revoke", "nobody"))[0] == 1
    assert (await keys(database, "add", "partner", "--scope", "get_ordre"))[0] == 1
    told = await listed(database)
    assert [(each["action"], each["outcome"]) for each in told] == [
        ("keys add", "refused"),
        ("keys revoke", "refused"),
        ("keys revoke", "done"),
        ("keys rotate", "done"),
        ("keys change", "done"),
        ("keys add", "done"),
    ]
    assert "near it are get_order" in told[0]["detail"]
    assert told[4]["detail"] == "scopes get_* → scopes ask, 5 requests/s, burst 400"
    assert {each["tenant"] for each in told[2:]} == {"acme"}
    assert all(each["caller"].startswith("command:") for each in told)
    assert all(began <= datetime.fromisoformat(each["at"]) <= datetime.now(UTC) for each in told)
    code, shown, _ = await ran(database, "audit", "list")
    assert code == 0
    for secret in (key, successor):
        assert secret.strip() not in json.dumps(told) + shown


async def test_a_call_of_an_operator_is_told_before_it_is_made(database: str) -> None:
    seen: list[list[dict[str, Any]]] = []

    async def fails(_request: Any, _context: Any) -> Any:
        connection = await connect(database)
        try:
            seen.append([dict(row) for row in await connection.fetch("SELECT * FROM gateway.audit_log")])
        finally:
            await connection.close()
        raise NotFound("no such alert")

    async with gateway(feedback={"SilenceAlert": fails}, database_url=database) as rig:
        await plain_key(rig)
        client = rig.client()
        await until(lambda: rig.gateway.keys.store is not None, "the store is open")
        reply = await client.task("silence_alert", SILENCE, headers={"X-Request-Id": "mine"})
        assert reply.status == 404
    (told,) = [each for each in seen[0] if each["action"] == "silence_alert"]
    assert (told["caller"], told["key_id"]) == ("FASTAPI_API_KEY", digest_of(KEY.encode()).hex()[:12])
    assert (told["outcome"], told["subject"], told["request_id"]) == ("allowed", "error_rate/eta", "mine")


async def test_who_is_refused_again_and_again_is_told_at_once_and_then_by_number(database: str) -> None:
    async with gateway(feedback={"SilenceAlert": silenced}, database_url=database) as rig:
        key = await plain_key(rig)
        client = rig.client()
        for _ in range(5):
            assert (await client.task("silence_alert", SILENCE, key=PLAIN)).status == 403
        assert (await entries(database))[0]["times"] == 1
        await rig.gateway.authority.flush()
        told = [each for each in await entries(database) if each["action"] == "silence_alert"]
        assert [each["times"] for each in told] == [4, 1]
        for each in told:
            assert (each["tenant"], each["key_id"], each["caller"]) == ("acme", key.key_id, "partner")
            assert (each["outcome"], each["subject"]) == ("refused", "")


async def test_what_was_refused_is_kept_at_the_end_of_the_process(database: str) -> None:
    async with gateway(feedback={"SilenceAlert": silenced}, database_url=database) as rig:
        await plain_key(rig)
        for _ in range(3):
            await rig.client().task("silence_alert", SILENCE, key=PLAIN)
    told = [each["times"] for each in await entries(database) if each["action"] == "silence_alert"]
    assert told == [2, 1]


async def test_what_cannot_be_told_is_not_done(database: str) -> None:
    called: list[Any] = []

    async def counted(request: Any, context: Any) -> Any:
        called.append(request)
        return await silenced(request, context)

    async with gateway(feedback={"SilenceAlert": counted}, database_url=database) as rig:
        await until(lambda: rig.gateway.keys.store is not None, "the store is open")
        client = rig.client()
        assert (await client.task("silence_alert", SILENCE)).status == 200
        store = rig.gateway._store
        assert store is not None
        store.pool.terminate()
        reply = await client.task("silence_alert", SILENCE)
        assert (reply.status, reply.json["reason"]) == (503, "STORE_UNAVAILABLE")
        assert len(called) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.audit_log SET outcome = 'done'",
        "UPDATE gateway.audit_log SET at = now() WHERE false",
        "DELETE FROM gateway.audit_log",
        "TRUNCATE gateway.audit_log",
    ],
)
async def test_the_log_is_only_added_to(database: str, statement: str) -> None:
    await keys(database, "revoke", "nobody")
    connection = await connect(database)
    try:
        with pytest.raises(asyncpg.RaiseError, match="only added to"):
            await connection.execute(statement)
        assert await connection.fetchval("SELECT count(*) FROM gateway.audit_log") == 1
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "column", ["tenant = 'other'", "name = 'other'", "digest = sha256('x')", "created_at = now()"]
)
async def test_a_key_stays_whose_it_is(database: str, column: str) -> None:
    await keys(database, "add", "partner")
    connection = await connect(database)
    try:
        with pytest.raises(asyncpg.RaiseError, match="keeps its id, name and tenant"):
            await connection.execute(f"UPDATE gateway.api_keys SET {column}")
    finally:
        await connection.close()


async def test_only_what_is_newer_is_told(database: str) -> None:
    await keys(database, "revoke", "nobody")
    assert len(await listed(database, "--since", "1h")) == 1
    assert await listed(database, "--since", "2999-01-01T00:00:00Z") == []
    code, _, err = await ran(database, "audit", "list", "--since", "yesterday")
    assert code == 2
    assert "must be a time such as" in err


async def test_a_gateway_says_in_its_log_when_a_change_counts(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "waymesh.audit")

    def told(words: str) -> list[Any]:
        return [
            each for each in caplog.records if each.name == "waymesh.audit" and words in each.getMessage()
        ]

    async with gateway(database_url=database) as rig:
        key = await plain_key(rig)
        await until(lambda: bool(told("key added")), "the key counts")
        store = rig.gateway.keys.store
        assert store is not None
        await store.revoke(key.key_id, Entry("keys revoke", "test"))
        await until(lambda: bool(told("key revoked")), "the key counts no more")
        (line,) = told("key revoked")
        assert line.fields["subject"] == f"{key.key_id} (partner)"
        assert line.fields["tenant"] == "acme"


async def test_commands_that_run_together_are_all_told(database: str) -> None:
    done = await asyncio.gather(*(keys(database, "add", f"partner {n}") for n in range(3)))
    assert [code for code, _, _ in done] == [0, 0, 0]
    assert {each["subject"].partition(" ")[2] for each in await entries(database)} == {
        f"(partner {n})" for n in range(3)
    }
