"""Settings of feedback that have to fit each other."""

from pathlib import Path

import pytest

from services.feedback.settings import FeedbackSettings
from services.mesh.settings import SettingsError, load


@pytest.mark.parametrize(
    ("days", "windows", "lateness_s", "enough"),
    [
        (2, "60s,300s/60s", 600.0, True),
        (2, "60s,300s/60s", 86_400.0, False),
        (3, "60s,300s/60s", 86_000.0, True),
        (3, "300s/60s,86400s", 86_400.0, True),
        (2, "300s/60s,86400s", 86_400.0, False),
    ],
)
def test_outcomes_are_kept_for_as_long_as_windows_may_be_made_of_them(
    tmp_path: Path, days: int, windows: str, lateness_s: float, enough: bool
) -> None:
    given = {"data_dir": tmp_path, "outcome_retention_days": days}
    if enough:
        load(FeedbackSettings, **given, metric_windows=windows, metric_lateness_s=lateness_s)
        return
    with pytest.raises(SettingsError) as raised:
        load(FeedbackSettings, **given, metric_windows=windows, metric_lateness_s=lateness_s)
    assert f"WAYMESH_OUTCOME_RETENTION_DAYS holds '{days}': allowed is at least {days + 1}" in str(
        raised.value
    )


@pytest.mark.parametrize(
    ("windows", "allowed"),
    [
        (
            "banana",
            "lengths such as 60s, or with a step such as 300s/60s, with commas between them; 'banana'",
        ),
        (
            "60s,60s/300s",
            "windows of at most a day (86400s), with steps no longer than they are and at most 60",
        ),
    ],
)
def test_windows_that_cannot_be_are_told_with_what_can(tmp_path: Path, windows: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(FeedbackSettings, data_dir=tmp_path, metric_windows=windows)
    assert str(raised.value).startswith(f"WAYMESH_METRIC_WINDOWS holds '{windows}': allowed is {allowed}")
