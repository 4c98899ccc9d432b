"""Rules and scrape targets as the Prometheus operator wants them, from what Prometheus itself reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

# Services with an admin port; the label of their pods is their name.
SERVICES: Final = ("agents", "eta", "feedback", "gateway", "route")
_MADE: Final = "# Made of {} by `python -m tools.observability write`.\n"
_LABELS: Final = {"app.kubernetes.io/name": "waymesh", "app.kubernetes.io/part-of": "waymesh"}


def rule_groups(folder: Path) -> list[dict[str, Any]]:
    """The groups of all rule files."""
    groups: list[dict[str, Any]] = []
    for path in sorted((folder / "prometheus" / "rules").glob("*.yaml")):
        groups += yaml.safe_load(path.read_text("utf-8"))["groups"]
    return groups


def all_of(folder: Path) -> dict[str, str]:
    """File name to text."""
    return {
        "prometheus-rules.yaml": _MADE.format("../prometheus/rules") + _text(_rules(folder)),
        "pod-monitor.yaml": _MADE.format("the names of the services")
        + _text(_pod_monitor("waymesh", "waymesh", SERVICES)),
        "edge-monitor.yaml": _MADE.format("the name of the edge")
        + _text(_pod_monitor("edge", "waymesh-edge", ["edge"])),
    }


def _rules(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "waymesh", "labels": _LABELS},
        "spec": {"groups": rule_groups(folder)},
    }


def _pod_monitor(name: str, job: str, pods: Sequence[str]) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": name, "labels": _LABELS},
        "spec": {
            "selector": {
                "matchExpressions": [
                    {"key": "app.kubernetes.io/name", "operator": "In", "values": list(pods)}
                ]
            },
            "podMetricsEndpoints": [
                {
                    "port": "admin",
                    "path": "/metrics",
                    "interval": "15s",
                    # The rules go by these two labels, here as in prometheus.yaml.
                    "relabelings": [
                        {"targetLabel": "job", "replacement": job},
                        {
                            "sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"],
                            "targetLabel": "service",
                        },
                    ],
                }
            ],
        },
    }


def _text(manifest: dict[str, Any]) -> str:
    return str(yaml.safe_dump(manifest, sort_keys=False, width=120, allow_unicode=True))
