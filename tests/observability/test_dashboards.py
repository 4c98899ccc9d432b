"""Dashboards as Grafana reads them: complete, in order on the page, and linked to what there is."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from tools.observability import derived
from tools.observability.dashboards import BOARDS
from tools.observability.dashboards.board import COLUMNS
from tools.observability.manifests import rule_groups

GRAFANA = derived.FOLDER / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
# Of Grafana's valueFormats, those that we use; another is shown as a bare number there.
UNITS = {"short", "s", "m", "bytes", "percentunit", "reqps", "ops"}
KINDS = {"timeseries", "stat", "state-timeline", "table", "row"}
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def _loaded(path: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_there_are_those_that_were_asked_for() -> None:
    assert {path.stem for path in FILES} == {
        "waymesh-overview",
        "waymesh-service",
        "waymesh-edge",
        "waymesh-events",
        "waymesh-arrivals",
    }


@each
def test_no_panel_lies_on_another_or_beyond_the_page(path: Any) -> None:
    places = [panel["gridPos"] for panel in _loaded(path)["panels"]]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= COLUMNS and at["w"] > 0 < at["h"] for at in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@each
def test_panels_have_numbers_of_their_own_and_kinds_and_units_that_grafana_knows(path: Any) -> None:
    panels = _loaded(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["type"] for panel in panels} <= KINDS
    assert {panel["fieldConfig"]["defaults"]["unit"] for panel in panels if "targets" in panel} <= UNITS


@each
def test_every_panel_asks_the_source_that_was_chosen(path: Any) -> None:
    board = _loaded(path)
    assert board["templating"]["list"][0]["name"] == "source"
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${source}"}
            assert target["expr"]


@each
def test_variables_that_are_used_are_there_and_those_that_are_there_are_used(path: Any) -> None:
    text = path.read_text()
    named = {variable["name"] for variable in _loaded(path)["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", text)) - {"__rate_interval", "__all"}
    assert used == named


def test_each_alert_is_linked_from_a_panel() -> None:
    alerts = {
        rule["alert"] for group in rule_groups(derived.FOLDER) for rule in group["rules"] if "alert" in rule
    }
    linked = {panel.alert for board in BOARDS for panel in board.panels if panel.alert}
    # Which replica is down is told by the first page of any of them.
    assert linked | {"WaymeshReplicaDown"} == alerts


def test_a_threshold_is_that_of_the_alert() -> None:
    """A line that is red where nobody is told would mislead."""
    bounds = {
        rule["alert"]: {float(number) for number in re.findall(r"[<>]=? ([\d.]+)", rule["expr"])}
        for group in rule_groups(derived.FOLDER)
        for rule in group["rules"]
        if "alert" in rule
    }
    for board in BOARDS:
        for panel in board.panels:
            if panel.alert in ("WaymeshHighErrorRate", "WaymeshHighLatency", "WaymeshOutboxStale") and (
                panel.bad is not None and panel.unit != "bytes"
            ):
                assert panel.bad in bounds[panel.alert], panel.title


def test_grafana_is_told_where_they_lie_and_whom_to_ask() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/waymesh.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards/waymesh"
    told = yaml.safe_load((GRAFANA / "provisioning/datasources/waymesh.yaml").read_text())
    sources = {source["type"]: source["url"] for source in told["datasources"]}
    assert sources == {"prometheus": "http://prometheus:9090", "jaeger": "http://jaeger:16686"}


def test_a_cluster_is_given_every_dashboard() -> None:
    told = yaml.safe_load((derived.FOLDER / "kustomization.yaml").read_text())
    (made,) = told["configMapGenerator"]
    assert made["files"] == [f"grafana/dashboards/{path.name}" for path in FILES]
    assert made["options"]["labels"] == {"grafana_dashboard": "1"}
