"""The few parts that our dashboards are made of, as Grafana's JSON (schema 39: Grafana 10.4 and later).

Panels are laid out as they are written, in rows of 24 columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

COLUMNS: Final = 24
# Where it is to be read is a constant of each dashboard, which whoever deploys them sets.
RUNBOOK: Final = "https://waymesh.example.org/docs/runbook.md"
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_GREEN, _ORANGE, _RED = "green", "orange", "red"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel; `legend` may name labels: `{{service}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit` is one of Grafana's; `bad` the value from which it is red, `good_above` turns that around."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    about: str = ""
    width: int = 8
    height: int = 8
    bad: float | None = None
    good_above: bool = False
    lowest: float | None = 0
    highest: float | None = None
    stacked: bool = False
    alert: str = ""
    """Which alert watches over it; its section of the runbook is linked."""
    words: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Value to text and colour."""

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana has it."""
        panel: dict[str, Any] = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.about,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "datasource": _SOURCE,
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": _OPTIONS[self.kind],
            "targets": [
                {
                    "refId": chr(ord("A") + place),
                    "datasource": _SOURCE,
                    "expr": query.expr,
                    "legendFormat": query.legend or "__auto",
                    "range": self.kind not in ("stat", "table"),
                    "instant": self.kind in ("stat", "table"),
                    **({"format": "table"} if self.kind == "table" else {}),
                }
                for place, query in enumerate(self.queries)
            ],
        }
        if self.alert:
            url = f"${{runbook}}#{self.alert.lower()}"
            panel["links"] = [_link(f"Runbook: {self.alert}", url)]
        return panel

    def _defaults(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": _RED if self.good_above else _GREEN, "value": None}]
        if self.bad is not None:
            steps.append({"color": _GREEN if self.good_above else _RED, "value": self.bad})
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"},
        }
        if self.lowest is not None:
            defaults["min"] = self.lowest
        if self.highest is not None:
            defaults["max"] = self.highest
        if self.words:
            options = {
                str(value): {"text": text, "color": color} for value, (text, color) in self.words.items()
            }
            defaults["mappings"] = [{"type": "value", "options": options}]
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 20 if self.stacked else 5,
                "showPoints": "never",
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "off" if self.bad is None else "line"},
            }
        return defaults


_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    "state-timeline": {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.9,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def _link(title: str, url: str) -> dict[str, Any]:
    return {
        "type": "link",
        "title": title,
        "url": url,
        "icon": "doc",
        "tags": [],
        "tooltip": "",
        "asDropdown": False,
        "includeVars": False,
        "keepTime": False,
        "targetBlank": True,
    }


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice of values of a label, all of them at first."""

    name: str
    title: str
    query: str
    multi: bool = True

    def json(self) -> dict[str, Any]:
        """As Grafana has it."""
        return {
            "type": "query",
            "name": self.name,
            "label": self.title,
            "datasource": _SOURCE,
            "query": {"query": self.query, "refId": self.name},
            "refresh": 2,
            "sort": 1,
            "multi": self.multi,
            "includeAll": self.multi,
            **({"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}} if self.multi else {}),
        }


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard: titles of rows, each with its panels."""

    uid: str
    title: str
    about: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    variables: Sequence[Variable] = ()
    span: str = "now-3h"

    @property
    def panels(self) -> Iterator[Panel]:
        """All of them."""
        for _, panels in self.rows:
            yield from panels

    def json(self) -> dict[str, Any]:
        """As Grafana has it."""
        source = {"type": "datasource", "name": "source", "label": "Prometheus", "query": "prometheus"}
        runbook = {"type": "constant", "name": "runbook", "label": "Runbook", "query": RUNBOOK, "hide": 2}
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["waymesh"],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": self.span, "to": "now"},
            "links": [
                {
                    "type": "dashboards", "title": "Waymesh", "tags": ["waymesh"], "asDropdown": True,
                    "includeVars": True, "keepTime": True, "icon": "external link", "targetBlank": False,
                    "tooltip": "", "url": "",
                },
                _link("Runbook", "${runbook}"),
            ],
            "templating": {"list": [source, runbook, *(variable.json() for variable in self.variables)]},
            "annotations": {"list": [_ALERTS]},
            "panels": list(self._placed()),
        }  # fmt: skip

    def _placed(self) -> Iterator[dict[str, Any]]:
        number = y = 0
        for title, panels in self.rows:
            number += 1
            yield {
                "id": number,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
            y += 1
            x = tallest = 0
            for panel in panels:
                if x + panel.width > COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                number += 1
                yield panel.json(number, x, y)
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest


_ALERTS: Final = {
    "name": "Alerts",
    "datasource": _SOURCE,
    "enable": True,
    "hide": False,
    "iconColor": "red",
    "expr": 'ALERTS{alertname=~"Waymesh.*", alertstate="firing"}',
    "titleFormat": "{{alertname}}",
    "textFormat": "{{service}}",
    "step": "60s",
}
