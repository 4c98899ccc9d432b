"""Rules of alerts: what is built in, and what a file may make of it."""

import json
import re
from pathlib import Path

import pytest
from waymesh.feedback.v1.signal_pb2 import SignalKind

from services.feedback.alert_rules import MetricRule, SignalRule, built_in, read_rules
from services.feedback.settings import FeedbackSettings
from services.mesh.settings import SettingsError, describe, load


def of_file(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "rules.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "metric", "threshold"),
    [
        ("failure_rate", "failure_rate", 0.10),
        ("error_rate", "error_rate", 0.05),
        ("p95_latency", "p95_latency_ms", 2_000.0),
    ],
)
def test_figures_have_the_thresholds_of_the_requirements(name: str, metric: str, threshold: float) -> None:
    rule = built_in().all[name]
    assert isinstance(rule, MetricRule)
    assert (rule.metric, rule.threshold, rule.window, rule.min_outcomes, rule.for_s) == (
        metric,
        threshold,
        "300s/60s",
        20,
        0.0,
    )


@pytest.mark.parametrize("kind", SignalKind.keys()[1:])
def test_every_kind_of_signal_has_a_rule_that_ends_by_itself_one_day(kind: str) -> None:
    name = kind.removeprefix("SIGNAL_KIND_").lower()
    rule = built_in().of_signal(name)
    assert isinstance(rule, SignalRule)
    assert (rule.name, rule.signal) == (name, name)
    assert rule.quiet_s > 0


def test_a_file_changes_what_it_names_and_adds_rules_on_metrics(tmp_path: Path) -> None:
    rules = read_rules(
        of_file(
            tmp_path,
            {
                "failure_rate": {"threshold": 0.25, "for_s": 60, "severity": "critical"},
                "error_rate": {"enabled": False},
                "gps_anomaly": {"quiet_s": 60},
                "slow_median": {"metric": "p50_latency_ms", "threshold": 500, "window": "60s"},
            },
        )
    )
    failure, slow, anomaly = (rules.all[name] for name in ("failure_rate", "slow_median", "gps_anomaly"))
    assert isinstance(failure, MetricRule)
    assert (failure.threshold, failure.for_s, failure.severity) == (0.25, 60.0, "critical")
    assert failure.window == "300s/60s"
    assert "error_rate" not in rules.all
    assert isinstance(slow, MetricRule)
    assert isinstance(anomaly, SignalRule)
    assert (slow.window, slow.severity, anomaly.quiet_s) == ("60s", "warning", 60.0)
    assert rules.all["p95_latency"] == built_in().all["p95_latency"]
    assert str(rules) == str(tmp_path / "rules.json")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"failure_rate": {', "a file of JSON ("),
        ("[]", "one JSON object, such as"),
        ({"failure_rate": 3}, "one JSON object, such as"),
        ('{"error_rate": {}, "error_rate": {}}', "'error_rate' stands once: remove one"),
        ({"failure_rate": {"threshold": "high"}}, "failure_rate.threshold is a valid number"),
        ({"failure_rate": {"threshold": True}}, "failure_rate.threshold is a number; it is true"),
        (
            {"failure_rate": {"threshold": 10}},
            "a file whose failure_rate has a threshold below 1, which a rate never exceeds",
        ),
        (
            {"error_rate": {"resolve_threshold": 0.5}},
            "error_rate has a resolve_threshold that is not above its",
        ),
        ({"failure_rate": {"treshold": 0.2}}, "without failure_rate.treshold, which is unknown: known are "),
        ({"p95_latency": {"for_s": -1}}, "p95_latency.for_s is greater than or equal to 0; it is -1"),
        ({"p95_latency": {"window": "5m"}}, "p95_latency.window is text that should match"),
        ({"gps_anomaly": {"severity": "bad"}}, "gps_anomaly.severity is 'info', 'warning'"),
        ({"gps_anomaly": {"signal": "breaker_open"}}, "without gps_anomaly.signal, which cannot be changed"),
        ({"mine": {"threshold": 3}}, "with mine.metric, which is missing: a new rule needs metric and"),
        ({"Mine": {"metric": "error_rate", "threshold": 0.5}}, "a file with names of a-z, 0-9 and _"),
        ({"a/b": {"metric": "error_rate", "threshold": 0.5}}, "a file with names of a-z, 0-9 and _"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_the_field(
    tmp_path: Path, content: object, told: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as refused:
        read_rules(of_file(tmp_path, content))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"can be read \(No such file or directory\)"):
        read_rules(tmp_path / "none.json")


def test_rules_are_about_windows_that_are_kept() -> None:
    built_in().check_windows({"60s", "300s/60s"})
    with pytest.raises(ValueError, match=r"failure_rate\.window is 60s, as WAYMESH_METRIC_WINDOWS says"):
        built_in().check_windows({"60s"})


def test_the_file_is_read_with_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(load(FeedbackSettings).alert_rules) == "built in"
    path = of_file(tmp_path, {"slow": {"metric": "p50_latency_ms", "threshold": 5, "window": "60s"}})
    monkeypatch.setenv("WAYMESH_ALERT_RULES", str(path))
    settings = load(FeedbackSettings)
    assert "slow" in settings.alert_rules.all
    assert describe(settings)["alert_rules"] == str(path)
    monkeypatch.setenv("WAYMESH_METRIC_WINDOWS", "300s/60s")
    with pytest.raises(
        SettingsError, match=r"^WAYMESH_ALERT_RULES holds '.+': allowed is a file whose slow\."
    ):
        load(FeedbackSettings)
    path.write_text("{")
    with pytest.raises(SettingsError, match=r"^WAYMESH_ALERT_RULES holds '.+': allowed is a file of JSON"):
        load(FeedbackSettings)
