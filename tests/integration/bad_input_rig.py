"""A running mesh that bad input is sent to, with something in it to damage, and a look at every row."""

import asyncio
import http.client
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.mesh.store import connect
from tests.running_mesh import KEY, RunningMesh, running_mesh

JSON = "application/json"
FIELDS = {"error", "request_id", "duration_ms", "service", "code", "reason", "details"}
# What nobody may write down: in the key, and in fields whose names say what they hold.
SECRETS = {
    "key": "wm_secret_of_the_header",
    "password": "hunter2-of-the-body",
    "token": "tok-of-the-body-81f2",
    "api_key": "ak-of-the-body-77c1",
    "ssn": "078-05-1120",
}
HERE = {"lat": 1.0, "lon": 1.0}
GPS: dict[str, Any] = {
    "event_id": "fix_1",
    "driver_id": "driver_1",
    "order_id": "",
    "location": HERE,
    "speed_kph": 0,
    "trip_stage": "idle",
    "traffic_density": "light",
    "zone_type": "mixed",
    "timestamp": "2026-01-01T00:00:00Z",
}
ORDER: dict[str, Any] = {
    "order_id": "order_1",
    "revision": 2,
    "status": "placed",
    "pickup": HERE,
    "dropoff": {"lat": 1.01, "lon": 1.0},
    "placed_at": "2026-01-01T00:00:00Z",
}
COURIER: dict[str, Any] = {
    "driver_id": "driver_1",
    "revision": 2,
    "vehicle_type": "car",
    "status": "off_shift",
}
OUTCOME: dict[str, Any] = {
    "event_id": "event_1",
    "run_id": "run_1",
    "agent_name": "planner",
    "action_type": "plan",
    "timestamp": "2026-01-01T00:00:00Z",
    "status": "success",
    "severity": "info",
}
DELIVERY: dict[str, Any] = {
    "outcome_id": "outcome_1",
    "order_id": "order_0",
    "predicted_at": "2026-01-01T00:00:00Z",
    "delivered_at": "2026-01-01T00:10:00Z",
}
SIGNAL: dict[str, Any] = {
    "signal_id": "signal_1",
    "kind": "gps_anomaly",
    "source": "tests",
    "subject": "driver_1",
    "severity": "warning",
    "active": True,
    "timestamp": "2026-01-01T00:00:00Z",
}
SEEDS: Mapping[str, dict[str, Any]] = {
    "upsert_orders": {"orders": [ORDER]},
    "upsert_couriers": {"couriers": [COURIER]},
    "report_gps": GPS,
    "record_outcomes": {"events": [OUTCOME]},
    "record_delivery_outcomes": {"outcomes": [DELIVERY]},
    "record_signals": {"signals": [SIGNAL]},
}
# What changes by itself: who is alive, what eta has learned so far from the good delivery, and what feedback
# makes, in its own time, of the outcomes and signals that it has. And the log tells of each call of an
# operator, whatever became of it.
_BY_ITSELF = {
    "gateway.audit_log",
    "agents.processes",
    "bus.groups",
    "bus.members",
    "eta.learned",
    "feedback.windows",
    "feedback.windows_position",
    "feedback.outcomes_too_late",
    "feedback.alerts",
    "feedback.alert_conditions",
    "feedback.alert_position",
}
_OF_OTHERS = "JOIN bus.partitions p USING (part) WHERE p.topic NOT IN ('agent-alerts', 'agent-metrics')"
_COUNTED = {
    # Repeats and conflicts are counted, and told by GetGpsStats; the rest is what came of fixes.
    "eta.gps_partitions": "(SELECT partition, fixes, flags FROM eta.gps_partitions WHERE fixes > 0)",
    "bus.log": f"(SELECT l.* FROM bus.log l {_OF_OTHERS})",
    "bus.heads": f"(SELECT h.* FROM bus.heads h {_OF_OTHERS})",
    "bus.kinds": "(SELECT * FROM bus.kinds WHERE type !~ '\\.(Alert|AgentMetrics)$')",
}
_databases = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which says that it is JSON."""
        assert self.headers["content-type"] == JSON
        return json.loads(self.body)


class Caller:
    """One keep-alive connection to the gateway."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(
        self, body: bytes, *, path: str = "/execute", key: str = KEY, content_type: str | None = JSON
    ) -> Reply:
        """These bytes."""
        headers = {"X-API-Key": key} | ({"Content-Type": content_type} if content_type else {})
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, found, answer.read())

    def task(self, task: str, parameters: object, **options: Any) -> Reply:
        """One task."""
        return self.send(json.dumps({"task": task, "parameters": parameters}).encode(), **options)

    def close(self) -> None:
        """Hangs up."""
        self._connection.close()


def refused(
    reply: Reply, status: int, code: str, reason: str, fields: Sequence[str], *, told: str = ""
) -> dict[str, Any]:
    """Checks the one form of an error, and that details and message name the fields; gives its body.

    `told`: what the message calls the first of them, if not by its path.
    """
    body: dict[str, Any] = reply.json
    assert (reply.status, body.get("code"), body.get("reason")) == (status, code, reason), body
    assert set(body) == FIELDS
    assert [each["field"] for each in body["details"]] == list(fields), body
    assert all(set(each) == {"field", "description"} and each["description"] for each in body["details"])
    assert body["request_id"] == reply.headers["x-request-id"]
    assert not fields or (told or fields[0]) in body["error"]
    return body


async def rows(dsn: str, *, recorded: bool = False) -> dict[str, tuple[int, str]]:
    """Count and digest of the rows of every table of every service and of the bus.

    With `recorded`, without what the services record of their own work: outcomes, and the bus that carries
    them.
    """
    connection = await connect(dsn)
    try:
        tables = [
            f"{schema}.{table}"
            for schema, table in await connection.fetch(
                "SELECT schemaname, tablename FROM pg_tables"
                " WHERE schemaname IN ('gateway', 'eta', 'route', 'feedback', 'agents', 'bus') ORDER BY 1, 2"
            )
        ]
        schemas = {table.split(".")[0] for table in tables}
        assert schemas == {"gateway", "eta", "route", "feedback", "agents", "bus"}
        kept = ("feedback.outcome", "feedback.heads", "bus.")
        found = {}
        for table in tables:
            if table in _BY_ITSELF or (recorded and table.startswith(kept)):
                continue
            found[table] = tuple(
                await connection.fetchrow(
                    f"SELECT count(*), md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), ''))"
                    f" FROM {_COUNTED.get(table, table)} t"
                )
            )
        return found
    finally:
        await connection.close()


async def settled(dsn: str) -> None:
    """Until every reader has handled what is on its topics, so that nothing good is still to be stored."""
    connection = await connect(dsn)
    try:
        async with asyncio.timeout(60):
            while await connection.fetchval(
                "SELECT count(*) FROM bus.offsets o JOIN bus.heads h USING (part) WHERE o.position < h.last"
            ):
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def _database(postgres_dsn: str, name: str, *, drop: bool = False) -> str:
    connection = await connect(postgres_dsn)
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)" if drop else f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return postgres_dsn.replace("/waymesh?", f"/{name}?")


@contextmanager
def seeded_mesh(postgres_dsn: str, folder: Path, **environ: str) -> Iterator[RunningMesh]:
    """A mesh with one good record of each kind, all of it processed; no timer changes anything later."""
    name = f"bad_input_{next(_databases)}"
    dsn = asyncio.run(_database(postgres_dsn, name))
    quiet = {
        "LOG_LEVEL": "DEBUG",
        "WAYMESH_ALLOCATION_TICK_S": "3600",
        "WAYMESH_ETA_LEARN_EVERY_S": "3600",
    }
    try:
        with running_mesh(dsn, folder, **quiet, **environ) as mesh:
            caller = Caller(mesh.gateway)
            for task, parameters in SEEDS.items():
                reply = caller.task(task, parameters)
                assert reply.status == 200, reply.body
            caller.close()
            asyncio.run(settled(dsn))
            yield mesh
    finally:
        asyncio.run(_database(postgres_dsn, name, drop=True))
