"""For whom a request is done: what its key says, and nothing that it says itself."""

from typing import Any

import pytest
from gateway_rig import GPS, gateway, took_in
from key_commands import keys
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_BUDGET_EXHAUSTED

from services.gateway.keys import digest_of
from services.mesh import principal
from services.mesh.errors import ResourceExhausted
from services.mesh.principal import Principal

FORGED = {
    "x-waymesh-tenant": "victim",
    "x-waymesh-key": "0123456789ab",
    "x-waymesh-caller": "root",
    "X-Waymesh-Tenant": "victim",
}


class Seen:
    """Whom the owner was called for."""

    def __init__(self) -> None:
        self.all: list[Principal] = []

    async def __call__(self, request: Any, context: Any) -> Any:
        self.all.append(principal.current())
        return await took_in(request, context)


async def test_the_owner_is_told_whose_key_it_was(database: str) -> None:
    seen = Seen()
    async with gateway({"ReportGps": seen}, database_url=database) as rig:
        client = rig.client()
        _, key, _ = await keys(database, "add", "Näht & Söhne", "--tenant", "acme")
        assert (await client.task("report_gps", GPS, key=key.strip())).status == 200
        assert (await client.task("report_gps", GPS)).status == 200
        acme = Principal("acme", digest_of(key.strip().encode()).hex()[:12], "Näht & Söhne")
        first = Principal("default", digest_of(b"wm_first").hex()[:12], "FASTAPI_API_KEY")
        assert seen.all == [acme, first]
        _, listed, _ = await keys(database, "list")
        assert "acme" in listed
        assert "TENANT" in listed


@pytest.mark.parametrize(("listener", "path"), [("gateway", "/execute"), ("agent-custom", "/run")])
async def test_what_a_request_says_of_itself_is_not_passed_on(listener: str, path: str) -> None:
    seen = Seen()
    sent: list[dict[str, Any]] = []

    async def looks(request: Any, context: Any) -> Any:
        sent.append(dict(context.invocation_metadata()))
        return await seen(request, context)

    async with gateway({"ReportGps": looks}) as rig:
        client = rig.client(listener)
        assert (await client.task("report_gps", GPS, path=path, headers=FORGED)).status == 200
    [who] = seen.all
    assert who.tenant == "default"
    assert who.name == ("FASTAPI_API_KEY" if path == "/execute" else "agent-custom")
    assert who.key == (digest_of(b"wm_first").hex()[:12] if path == "/execute" else "")
    assert not [value for value in sent[0].values() if value in FORGED.values()]


async def test_requests_of_one_connection_are_each_done_for_their_own_key(database: str) -> None:
    seen = Seen()
    async with gateway({"ReportGps": seen}, database_url=database) as rig:
        client = rig.client()
        _, acme, _ = await keys(database, "add", "a", "--tenant", "acme")
        _, bolt, _ = await keys(database, "add", "b", "--tenant", "bolt")
        for key in (acme, bolt, acme):
            assert (await client.task("report_gps", GPS, key=key.strip())).status == 200
        assert (await client.task("report_gps", GPS, key="wm_wrong")).status == 401
        assert [who.tenant for who in seen.all] == ["acme", "bolt", "acme"]
        assert client.connections == 1


@pytest.mark.parametrize("tenant", ["", "a b", "-a", "ä", "a" * 65])
async def test_a_tenant_has_a_plain_name(database: str, tenant: str) -> None:
    code, out, err = await keys(database, "add", "x", f"--tenant={tenant}")
    assert code != 0
    assert out == ""
    assert "1 to 64 letters" in err


async def test_one_tenant_at_its_limit_leaves_a_task_open_to_the_others(database: str) -> None:
    async def limited(request: Any, context: Any) -> Any:
        if principal.current().tenant == "acme":
            raise ResourceExhausted("used up", reason=ERROR_REASON_BUDGET_EXHAUSTED)
        return await took_in(request, context)

    async with gateway({"ReportGps": limited}, database_url=database) as rig:
        client = rig.client()
        _, acme, _ = await keys(database, "add", "a", "--tenant", "acme")
        for _ in range(10):
            refused = await client.task("report_gps", GPS, key=acme.strip())
            assert (refused.status, refused.json["reason"]) == (429, "BUDGET_EXHAUSTED")
        assert (await client.task("report_gps", GPS)).status == 200
