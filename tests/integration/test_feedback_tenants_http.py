"""Two tenants with keys of their own over HTTP: the same ids, and each gets what is its own, as if alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from eta_rig import Rig as Mesh
from eta_rig import rig as eta_rig
from gateway_rig import JSON, Rig, gateway

from services.gateway.audit import Entry
from services.gateway.keys import ApiKey, digest_of, new_key
from tests.processes import until

TENANTS = ("acme", "rival", "default")


@pytest.fixture
async def mesh(database: str, tmp_path: Any) -> AsyncIterator[Mesh]:
    async with eta_rig(database, tmp_path) as made:
        yield made


async def keys_of(rig: Rig) -> Mapping[str, str]:
    """One key per tenant, for everything."""
    await until(lambda: rig.gateway.keys.store is not None, "the store is open")
    found = {}
    for tenant in TENANTS:
        found[tenant] = new_key()
        kept = ApiKey(digest_of(found[tenant].encode()), tenant, tenant=tenant, scopes=("*", "admin"))
        await rig.gateway.keys.store.add(kept, Entry("keys add", "test"))
    return found


async def done(rig: Rig, key: str, task: str, parameters: object, **headers: str) -> Any:
    reply = await rig.client().post(
        "/execute", {"task": task, "parameters": parameters}, key=key, headers=headers
    )
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == JSON
    answer = reply.json
    return answer.get("result", answer)


def at(minutes_ago: float = 0) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat().replace("+00:00", "Z")


def outcome(tenant: str, event_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": event_id, "run_id": "run", "agent_name": "agent", "action_type": "act",
        "timestamp": at(), "status": "success", "severity": "info", "tags": [tenant], **changes,
    }  # fmt: skip


async def test_each_key_finds_what_was_recorded_with_keys_of_its_tenant(mesh: Mesh, database: str) -> None:
    feedback = await mesh.with_feedback()
    target = f"127.0.0.1:{feedback.server.port}"
    async with gateway(feedback_target=target, database_url=database) as rig:
        keys = await keys_of(rig)
        for n, (tenant, key) in enumerate(keys.items()):
            events = [outcome(tenant, "event"), outcome(tenant, "acme/event", run_id="rival/run")]
            # What a caller says of tenants itself counts for nothing.
            claim = {"X-Waymesh-Tenant": ("rival", "*", "acme")[n]}
            assert (await done(rig, key, "record_outcomes", {"events": events}, **claim))["stored"] == 2
            delivery = {
                "outcome_id": "o", "order_id": "order", "predicted_at": at(9), "delivered_at": at(),
                "confidence": n / 4,
            }  # fmt: skip
            assert (await done(rig, key, "record_delivery_outcomes", {"outcomes": [delivery]}))["stored"] == 1
            signal = {
                "signal_id": "s", "kind": "gps_anomaly", "source": "partner", "subject": "courier",
                "severity": "warning", "active": True, "timestamp": at(), "labels": {"of": tenant},
            }  # fmt: skip
            assert (await done(rig, key, "record_signals", {"signals": [signal]}))["stored"] == 1

        async def raised() -> bool:
            return all([(await done(rig, key, "list_alerts", {}))["alerts"] for key in keys.values()])

        async with asyncio.timeout(60):
            while not await raised():
                await asyncio.sleep(0.05)

        for n, (tenant, key) in enumerate(keys.items()):
            for claim in ({}, {"X-Waymesh-Tenant": "rival"}, {"x-waymesh-tenant": "*"}):
                listed = (await done(rig, key, "list_outcomes", {}, **claim))["events"]
                own = [one for one in listed if one["agent_name"] == "agent"]
                assert sorted((one["event_id"], one["run_id"]) for one in own) == [
                    ("acme/event", "rival/run"),
                    ("event", "run"),
                ]
                assert {tag for one in own for tag in one["tags"]} == {tenant}
                counts = await done(rig, key, "list_failure_counts", {"agent_name": "agent"}, **claim)
                assert [(one["agent_name"], one["total"]) for one in counts["agents"]] == [("agent", 2)]
            [delivered] = (await done(rig, key, "list_delivery_outcomes", {"order_id": "order"}))["outcomes"]
            assert (delivered["outcome_id"], delivered["confidence"]) == ("o", n / 4)
            [alert] = (await done(rig, key, "list_alerts", {"rule": "gps_anomaly"}))["alerts"]
            assert (alert["alert_key"], alert["subject"]) == ("gps_anomaly/partner/courier", "courier")
            assert alert["labels"] == {"of": tenant}

        # Under another content the same id is a conflict of one's own, and told in one's own words.
        again = outcome("other", "acme/event")
        reply = await rig.client().task("record_outcome", again, key=keys["acme"])
        assert reply.status == 409
        assert reply.json["error"] == "acme/event was recorded before with other content"

        silence = {"alert_key": "gps_anomaly/partner/courier", "duration_s": 60}
        assert (await done(rig, keys["acme"], "silence_alert", silence))["alert"]["labels"] == {"of": "acme"}
        for tenant, key in keys.items():
            [alert] = (await done(rig, key, "list_alerts", {"rule": "gps_anomaly"}))["alerts"]
            assert ("silenced_until" in alert) == (tenant == "acme")
