"""What services give Prometheus: few series with bounded labels, named as the field names them."""

from collections import Counter
from typing import Final

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.observability.live_mesh import CANARY
from tests.observability.story import Story
from tools.observability.manifests import SERVICES

# Each with why it cannot grow: it comes from the code, the contract or the settings, never from a caller.
LABELS: Final = {
    "agent_type": "names of services and runtimes",
    "status": "words of the code",
    "topic": "the topics there are",
    "partition": "of these topics",
    "grpc_service": "the contract",
    "grpc_method": "the contract",
    "grpc_code": "seventeen",
    "target": "names of services",
    "method": "the contract",
    "check": "names in the code",
    "listener": "the three of the gateway",
    "path": "routes and templates; `none` for any other",
    "code": "HTTP's",
    "end": "words of the code",
    "outbox": "names in the code",
    "state": "words of the code",
    "stage": "two",
    "direction": "two",
    "interval": "three",
    "version": "one",
    "gen_ai_operation_name": "one",
    "gen_ai_request_model": "the models that are set up; `other` for those that agents name",
    "gen_ai_response_model": "the same",
    "gen_ai_token_type": "two",
    "error_type": "codes and names of exceptions",
    "generation": "three, of Python's collector",
    "implementation": "one",
    "major": "one",
    "minor": "one",
    "patchlevel": "one",
    "le": "bounds of buckets",
}
# Without buckets, of one family in one process. The topics have 66 partitions in all.
MOST_SERIES: Final = 150
UNITS: Final = ("_total", "_seconds", "_bytes", "_minutes", "_info", "_events")


def _families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


@pytest.fixture(params=SERVICES)
def families(story: Story, request: pytest.FixtureRequest) -> list[Metric]:
    """Of one service."""
    return _families(story.metrics[request.param])


def test_no_label_holds_what_a_caller_sent(story: Story) -> None:
    assert CANARY not in "".join(story.metrics.values())


def test_labels_are_those_that_cannot_grow(families: list[Metric]) -> None:
    found = {label for family in families for sample in family.samples for label in sample.labels}
    assert found <= LABELS.keys()


def test_a_family_has_few_series(families: list[Metric]) -> None:
    sizes = {family.name: sum("le" not in sample.labels for sample in family.samples) for family in families}
    assert {name: size for name, size in sizes.items() if size > MOST_SERIES} == {}


def test_each_family_is_explained(families: list[Metric]) -> None:
    assert [family.name for family in families if not family.documentation] == []


def test_names_of_ours_tell_the_unit_and_whether_they_only_grow(families: list[Metric]) -> None:
    for family in families:
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total")
            if family.type == "histogram":
                assert family.name.endswith(UNITS) or family.name == "gen_ai_client_token_usage"


def test_each_process_says_which_build_it_is(families: list[Metric]) -> None:
    [build] = [family for family in families if family.name == "waymesh_build_info"]
    assert [sample.value for sample in build.samples] == [1.0]


def test_series_are_told_once(families: list[Metric]) -> None:
    series = Counter(
        (sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples
    )
    assert [one for one, times in series.items() if times > 1] == []
