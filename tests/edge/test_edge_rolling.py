"""A whole mesh behind the edge, by HTTPS and gRPC, while all of it is restarted or every key changes."""

import pytest

from bench import _edge_rolling


@pytest.mark.faults
@pytest.mark.parametrize(
    "rotation", [False, True], ids=["every service restarts", "keys and certificates change"]
)
async def test_nobody_gets_an_error(rotation: bool) -> None:
    """A short run of bench/edge.py."""
    found = await _edge_rolling.measure(300, 25.0, rotation=rotation, between_s=1.0)
    assert (found["failed"], set(found["statuses"])) == (0, {"200"})
    assert found["changes"] >= 3
    assert found["by_grpc"] > 0
