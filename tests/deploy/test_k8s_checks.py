"""Manifests are what Kubernetes and its operators take, and checkov finds nothing."""

import copy
from typing import Any, Final

import pytest
from manifests import FULLEST, overlay

from tools.k8s import checkov, custom, schemas
from tools.k8s.render import OVERLAYS, distinct, rendered

BARE: Final = """
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: waymesh}
spec: {containers: [{name: it, image: 'it:latest'}]}
"""


def test_kubernetes_own_kinds_are_valid_in_the_strict_sense() -> None:
    assert schemas.faults(distinct(OVERLAYS)) == []


def test_custom_resources_are_what_their_definitions_say() -> None:
    objects = distinct(OVERLAYS)

    assert custom.faults(objects) == []
    assert {each["kind"] for each in objects if not schemas.is_builtin(each)} >= {
        *("Certificate", "Cluster", "ExternalSecret", "Gateway", "KafkaTopic", "KafkaUser"),
        *("PodMonitor", "PrometheusRule", "ScaledObject", "ScheduledBackup", "TLSRoute"),
    }


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("Certificate", {"dnsName": ["eta"]}, "'dnsName' was unexpected"),
        ("Certificate", {"secretName": 5}, "5 is not of type 'string'"),
        ("KafkaTopic", {"partitons": 3}, "'partitons' was unexpected"),
        ("ScaledObject", {"minReplicaCount": "two"}, "'two' is not of type 'integer'"),
        ("Cluster", {"instances": 0}, "0 is less than the minimum of 1"),
        ("TLSRoute", {"hostnames": ["*bad*"]}, "does not match"),
        ("ExternalSecret", {"secretStore": {}}, "'secretStore' was unexpected"),
        ("StatefulSet", {"replica": 2}, "'replica' was unexpected"),
    ],
)
def test_a_field_that_does_not_exist_or_holds_something_else_is_found(
    kind: str, change: dict[str, Any], told: str
) -> None:
    wrong = copy.deepcopy(next(overlay(FULLEST).of_kind(kind)))
    wrong["spec"] |= change

    (fault, *_) = schemas.faults([wrong]) if schemas.is_builtin(wrong) else custom.faults([wrong])

    assert told in fault
    assert str(wrong["metadata"]["name"]) in fault


def test_a_kind_that_nobody_defines_is_found() -> None:
    stranger = {"apiVersion": "example.com/v1", "kind": "Wish", "metadata": {"name": "more"}}

    assert custom.faults([stranger]) == ["Wish more: there is no definition of Wish in example.com/v1"]


@pytest.fixture(scope="module")
def verdict() -> checkov.Verdict:
    """On every overlay, and on a pod that says nothing of itself."""
    return checkov.judge({**{name: rendered(name) for name in OVERLAYS}, "bare": BARE})


def test_checkov_finds_nothing_and_what_it_leaves_out_has_a_reason(verdict: checkov.Verdict) -> None:
    assert [each for each in verdict.failed if not each.startswith("bare: ")] == []
    assert verdict.passed > 1000
    assert {where for where, reason in verdict.skipped if len(reason.split()) < 5} == set()
    left_out = {where.rpartition(" ")[2] for where, _ in verdict.skipped}
    assert left_out == {"CKV_K8S_15", "CKV_K8S_35", "CKV_K8S_43"}


def test_what_is_wrong_fails_with_checkov(verdict: checkov.Verdict) -> None:
    wrong = {each.split(": ")[2] for each in verdict.failed if each.startswith("bare: ")}

    assert {"CKV_K8S_8", "CKV_K8S_13", "CKV_K8S_20", "CKV_K8S_22", "CKV_K8S_38"} <= wrong
