"""Which variables `waymesh doctor` takes for misspelt."""

import re
from pathlib import Path

import pytest

from services.agents.settings import AgentsSettings
from services.cli.doctor.variables import OF_OTHERS, unread
from services.eta.settings import EtaSettings
from services.feedback.settings import FeedbackSettings
from services.gateway.settings import GatewaySettings
from services.route.settings import RouteSettings

ROOT = Path(__file__).resolve().parents[3]
OF_SERVICES = frozenset[str]().union(
    *(
        each.variables()
        for each in (AgentsSettings, EtaSettings, FeedbackSettings, GatewaySettings, RouteSettings)
    )
)


def test_no_variable_that_is_read_somewhere_is_among_them() -> None:
    """Python names each variable in a text of its own, and CI exports what it sets."""
    named = {
        name
        for folder in ("services", "bench", "tools", "examples")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'"(WAYMESH_[A-Z_]*[A-Z])"', path.read_text())
    }
    exported = set(re.findall(r"export (WAYMESH_\w+)", (ROOT / ".ci/run").read_text()))
    assert len(named) > 50
    assert exported
    assert unread(named | exported, OF_SERVICES) == []


def test_none_is_known_that_nobody_names() -> None:
    files = [
        path
        for folder in ("services", "bench", "tools", "examples", "tests", "deploy")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yaml"} and path.name not in {"variables.py", Path(__file__).name}
    ]
    text = "\n".join(path.read_text() for path in files)
    assert [name for name in sorted(OF_OTHERS) if name not in text] == []


@pytest.mark.parametrize(
    "name", ["WAYMESH_ETA_SERVICE_HOST", "WAYMESH_ETA_SERVICE_PORT_GRPC", "WAYMESH_ETA_PORT_50051_TCP_ADDR"]
)
def test_what_kubernetes_tells_of_a_service_is_not(name: str) -> None:
    assert unread([name], OF_SERVICES) == []
