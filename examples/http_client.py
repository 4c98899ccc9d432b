"""Report one fix over HTTP with the standard library alone, and read the errors the gateway gives.

Run it beside `make run`: WAYMESH_API_KEY=$(.venv/bin/waymesh keys add me) python3 examples/http_client.py
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime

GATEWAY = os.environ.get("WAYMESH_GATEWAY", "http://127.0.0.1:8000")
KEY = os.environ.get("WAYMESH_API_KEY", "")


def execute(task: str, parameters: dict[str, object]) -> tuple[int, dict[str, object]]:
    """Run one task; returns the HTTP status and the answer, which is JSON whatever happened."""
    request = urllib.request.Request(
        f"{GATEWAY}/execute",
        data=json.dumps({"task": task, "parameters": parameters}).encode(),
        headers={"Content-Type": "application/json", "X-API-Key": KEY},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)
    except urllib.error.URLError as away:
        sys.exit(f"no gateway answers at {GATEWAY} ({away.reason}): start one with `make run`")


if not KEY:
    sys.exit(
        "set WAYMESH_API_KEY to the key that `waymesh up` prints, or to a new one of `waymesh keys add NAME`"
    )

fix: dict[str, object] = {
    "driver_id": "driver_123",
    "order_id": "order_456",
    "location": {"lat": -23.5505, "lon": -46.6333},
    "speed_kph": 25.3,
    "trip_stage": "to_pickup",
    "traffic_density": "moderate",
    "zone_type": "business_district",
    "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    "anomaly_flags": [],
}
print(*execute("report_gps", fix))
print(*execute("report_gps", {**fix, "location": {"lat": 123, "lon": -46.6333}}))
