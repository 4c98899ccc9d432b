"""Keys of several tenants at one gateway: the same names, and each is told of its own things alone."""

import asyncio
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from key_commands import keys
from running_mesh import KEY, RunningMesh, running_mesh
from stored_tables import owners

from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT
from services.mesh.store import connect
from services.mesh.tenancy import tenant_of

# Only keeps a mesh that has stopped from holding the run.
GUARD_S = 60.0
PLACE = {"lat": -23.55, "lon": -46.63}
# Tables that have rows of each tenant once its day is over, whatever else is still to come.
KEPT_OF_A_DAY = {
    "agents.runs", "bus.log", "eta.couriers", "eta.gps_counts", "eta.gps_reports", "feedback.outcome_ids",
    "feedback.outcomes", "gateway.api_keys", "gateway.audit_log", "route.allocations", "route.couriers",
    "route.orders", "route.positions", "route.revisions",
}  # fmt: skip
NOW = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Caller:
    """Somebody with a key."""

    port: int
    key: str

    def ask(self, task: str, parameters: object) -> tuple[int, dict[str, Any]]:
        """Status and body of a task."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=GUARD_S)
        try:
            body = json.dumps({"task": task, "parameters": parameters})
            headers = {"X-API-Key": self.key, "Content-Type": "application/json", "x-waymesh-tenant": "*"}
            connection.request("POST", "/execute", body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def result(self, task: str, parameters: object) -> dict[str, Any]:
        """What a task gives."""
        status, body = self.ask(task, parameters)
        assert status == 200, body
        found: dict[str, Any] = body["result"]
        return found

    def refusal(self, task: str, parameters: object) -> dict[str, Any]:
        """How a task is refused, without what is another for each request."""
        status, body = self.ask(task, parameters)
        assert status == 404, body
        return {name: body[name] for name in ("error", "code", "reason", "details", "service")}

    def once(self, task: str, parameters: object, holds: Any) -> dict[str, Any]:
        """What a task gives once it holds: services tell each other by events."""
        until = time.monotonic() + GUARD_S
        while True:
            status, body = self.ask(task, parameters)
            if status == 200 and holds(body["result"]):
                found: dict[str, Any] = body["result"]
                return found
            assert time.monotonic() < until, body
            time.sleep(0.1)


def fix(**more: Any) -> dict[str, Any]:
    return {
        "driver_id": "c", "order_id": "", "location": PLACE, "speed_kph": 20, "trip_stage": "idle",
        "traffic_density": "light", "zone_type": "mixed", "timestamp": NOW, "anomaly_flags": [], **more,
    }  # fmt: skip


def order(north: float, **more: Any) -> dict[str, Any]:
    dropoff = {"lat": PLACE["lat"] + north, "lon": PLACE["lon"]}
    return {
        "order_id": "o", "revision": 1, "status": "placed", "pickup": PLACE, "dropoff": dropoff,
        "placed_at": NOW, "ready_at": NOW, **more,
    }  # fmt: skip


COURIER = {"driver_id": "c", "revision": 1, "vehicle_type": "motorcycle", "status": "idle"}


@pytest.fixture(scope="module")
def mesh(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with running_mesh(module_database, tmp_path_factory.mktemp("tenants")) as running:
        yield running


@pytest.fixture(scope="module")
def callers(mesh: RunningMesh) -> dict[str, Caller]:
    """One of each tenant, as soon as the gateway knows their keys."""
    made = {"default": Caller(mesh.gateway, KEY)}
    for tenant in ("acme", "bolt", "nobody"):
        _, key, said = asyncio.run(keys(mesh.dsn, "add", tenant, "--tenant", tenant))
        assert key, said
        made[tenant] = Caller(mesh.gateway, key.strip())
    for caller in made.values():
        caller.once("get_gps_stats", {}, lambda _: True)
    return made


def test_a_day_of_three_tenants_with_the_same_names(mesh: RunningMesh, callers: dict[str, Caller]) -> None:
    owners = ("default", "acme", "bolt")
    # Further and further for each of them: no two have the same answers.
    ways = dict(zip(owners, (0.02, 0.04, 0.06), strict=True))
    fixes = dict(zip(owners, (1, 2, 3), strict=True))
    for tenant in owners:
        caller = callers[tenant]
        assert not caller.result("upsert_couriers", {"couriers": [COURIER]})["duplicate"]
        for number in range(fixes[tenant]):
            told = caller.result("report_gps", fix(event_id=f"f{number}", speed_kph=20 + number))
            assert told == {"event_id": f"f{number}", "duplicate": False}
        assert not caller.result("upsert_orders", {"orders": [order(ways[tenant])]})["duplicate"]

    for tenant in owners:
        caller = callers[tenant]
        assert (
            caller.result("get_order", {"order_id": "o"})["order"]["dropoff"]
            == order(ways[tenant])["dropoff"]
        )
        given = caller.once("allocate_drivers", {"order_ids": ["o"]}, lambda told: told["allocations"])
        assert [(one["order_id"], one["assigned_driver_id"]) for one in given["allocations"]] == [("o", "c")]
        stats = caller.once("get_gps_stats", {}, lambda told, n=fixes[tenant]: told["fixes"] >= n)
        assert stats["fixes"] == fixes[tenant]
    minutes = []
    for tenant in owners:
        told = callers[tenant].once(
            "predict_eta", {"order_id": "o"}, lambda told: told["prediction"]["driver_id"]
        )
        assert (told["prediction"]["order_id"], told["prediction"]["driver_id"]) == ("o", "c")
        minutes.append(told["prediction"]["delivery_eta_minutes"])
    assert minutes == sorted(minutes)
    assert len(set(minutes)) == 3

    # An agent asks on behalf of its caller's tenant, by the names that this one has.
    for tenant in owners:
        told = callers[tenant].result("explain_eta", {"query": {"order_id": "o"}})
        found = callers[tenant].result("predict_eta", {"order_id": "o"})["prediction"]
        assert told["prediction"]["order_id"] == "o"
        assert told["prediction"]["delivery_eta_minutes"] == pytest.approx(
            found["delivery_eta_minutes"], rel=0.2
        )
        assert "/" not in told["prediction"]["driver_id"]
        route = callers[tenant].result("explain_route", {"route": {"driver_id": "c"}})
        assert {stop["order_id"] for stop in route["plan"]["stops"]} == {"o"}

    callers["acme"].result("upsert_orders", {"orders": [order(0.03, order_id="next")]})
    for tenant in ("bolt", "default"):
        assert callers[tenant].ask("plan_delivery", {"order_ids": ["next"]})[0] == 404
    planned = callers["acme"].result("plan_delivery", {"order_ids": ["next"]})
    assert [one["order_id"] for one in planned["plans"]] == ["next"]

    callers["acme"].result("cancel_order", {"order_id": "o"})
    statuses = [callers[one].result("get_order", {"order_id": "o"})["order"]["status"] for one in owners]
    assert statuses == ["assigned", "cancelled", "assigned"]
    assert not mesh.faults()


def test_anothers_thing_is_a_404_in_the_words_for_none(callers: dict[str, Caller]) -> None:
    callers["acme"].result("upsert_orders", {"orders": [order(0.02, order_id="secret")]})
    callers["acme"].result("upsert_couriers", {"couriers": [{**COURIER, "driver_id": "hidden"}]})
    callers["acme"].once("predict_eta", {"order_id": "secret"}, lambda _: True)
    outcome = {
        "event_id": "secret", "run_id": "r", "agent_name": "a", "action_type": "x", "timestamp": NOW,
        "status": "success", "severity": "info", "duration_ms": 1, "latency_ms": 1,
    }  # fmt: skip
    assert not callers["acme"].result("record_outcome", outcome)["duplicate"]
    asked: list[tuple[str, dict[str, Any]]] = [
        ("get_order", {"order_id": "secret"}),
        ("cancel_order", {"order_id": "secret"}),
        ("predict_eta", {"order_id": "secret"}),
        ("allocate_drivers", {"order_ids": ["secret"], "dry_run": True}),
        ("optimize_route", {"driver_id": "hidden"}),
        ("explain_eta", {"query": {"order_id": "secret"}}),
    ]
    for task, parameters in asked:
        told = [callers[tenant].refusal(task, parameters) for tenant in ("bolt", "default", "nobody")]
        none = json.loads(json.dumps(parameters).replace("secret", "no-one").replace("hidden", "no-one"))
        words = json.dumps(callers["acme"].refusal(task, none))
        for one in told:
            assert json.dumps(one).replace("secret", "no-one").replace("hidden", "no-one") == words
            assert "acme" not in json.dumps(one)
    for tenant in ("bolt", "default", "nobody"):
        assert not callers[tenant].result("list_outcomes", {"agent_name": "a"})["events"]
        # What another has recorded under an id is no conflict.
        assert not callers[tenant].result("record_outcome", {**outcome, "run_id": tenant})["duplicate"]
    [own] = callers["acme"].result("list_outcomes", {"agent_name": "a"})["events"]
    assert (own["event_id"], own["run_id"]) == ("secret", "r")


async def test_what_they_have_stored_stands_under_their_own_names(
    mesh: RunningMesh, callers: dict[str, Caller]
) -> None:
    """They used the same ids: what a table kept without the tenant, it would have of one of them alone."""
    connection = await connect(mesh.dsn)
    try:
        found = await owners(connection)
    finally:
        await connection.close()
    assert {table for table, names in found.items() if names >= {"acme", "bolt"}} >= KEPT_OF_A_DAY
    # Windows of all tenants together are the mesh's.
    assert {name for names in found.values() for name in names} <= {*callers, MESH_TENANT}
    assert {table for table, names in found.items() if MESH_TENANT in names} <= {
        "bus.log",
        "feedback.windows",
    }


async def test_what_they_have_caused_says_whose_it_is(mesh: RunningMesh, callers: dict[str, Caller]) -> None:
    connection = await connect(mesh.dsn)
    try:
        events = await connection.fetch(
            "SELECT DISTINCT p.topic, l.key, l.headers::json ->> 'x-waymesh-tenant' AS tenant"
            " FROM bus.log l JOIN bus.partitions p USING (part)"
        )
    finally:
        await connection.close()
    assert [one for one in events if tenant_of(one["key"]) != (one["tenant"] or DEFAULT_TENANT)] == []
    assert {one["tenant"] for one in events} >= set(callers) - {DEFAULT_TENANT}
