"""Each alert fires on a real mesh when its cause is there, and resolves when the cause is gone.

What dashboards and the runbook ask Prometheus has an answer in that time.
"""

import re

import pytest

from tests.observability.story import NAMES, PANELS, RUNBOOK, Story


def test_no_alert_fires_while_all_is_well(story: Story) -> None:
    assert story.early == []


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_fires_when_its_cause_is_there(story: Story, name: str) -> None:
    assert name in story.fired


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_resolves_when_its_cause_is_gone(story: Story, name: str) -> None:
    assert name in story.resolved


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_tells_of_what_happened_in_words(story: Story, name: str) -> None:
    texts = story.fired[name]["annotations"]
    told = texts["summary"] + texts["description"]
    assert not re.search(r"\{\{|<no value>|error expanding|%!", told), told


@pytest.mark.parametrize("panel", PANELS)
def test_each_query_of_a_dashboard_has_an_answer(story: Story, panel: str) -> None:
    assert PANELS[panel] not in story.unseen


@pytest.mark.parametrize("query", RUNBOOK)
def test_each_query_of_the_runbook_has_an_answer(story: Story, query: str) -> None:
    assert query not in story.unseen


def test_nothing_is_left_of_it(story: Story) -> None:
    assert story.left == []
