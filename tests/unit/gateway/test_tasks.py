"""The table of tasks, and the paths of what is wrong with their parameters."""

import pytest
import waymesh
from waymesh.eta.v1 import eta_service_pb2
from waymesh.mesh.v1 import degradation_pb2

from services.gateway import tasks
from services.mesh.errors import FieldViolation, InvalidArgument, NotFound

TABLE = tasks.load()


def test_every_unary_rpc_of_the_contracts_is_a_task_of_its_owner() -> None:
    owners = {name: task.owner for name, task in TABLE.items()}
    assert owners["report_gps"] == owners["predict_eta"] == owners["batch_predict_eta"] == "eta"
    assert owners["optimize_route"] == owners["allocate_drivers"] == owners["cancel_order"] == "route"
    assert owners["record_outcomes"] == "feedback"
    assert tasks.owners(TABLE) == ["agents", "eta", "feedback", "route"]
    assert "watch_eta" not in TABLE


def test_parameters_fill_the_body_field_or_the_whole_request() -> None:
    report = TABLE["report_gps"].read({"driver_id": "d", "trip_stage": "idle"})
    assert report.event.driver_id == "d"  # type: ignore[attr-defined]
    stats = TABLE["get_gps_stats"].read({"cursor": "c"})
    assert stats.cursor == "c"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "path", "expected"),
    [
        ("report_gps", "event.location.lat", "parameters.location.lat"),
        ("report_gps", "event.anomaly_flags[0]", "parameters.anomaly_flags[0]"),
        ("report_gps", "event", "parameters"),
        ("report_gps", "", "parameters"),
        ("batch_predict_eta", "queries[3].order_id", "parameters.queries[3].order_id"),
        ("batch_predict_eta", "", "parameters"),
        ("predict_eta", 'query.context.labels["a"]', 'parameters.context.labels["a"]'),
    ],
)
def test_what_the_owner_blames_is_named_from_the_bodys_root(task: str, path: str, expected: str) -> None:
    assert TABLE[task].blame(FieldViolation(path, "x")) == FieldViolation(expected, "x")


def test_an_error_of_the_owner_keeps_all_but_its_paths() -> None:
    error = NotFound(
        "event.order_id: unknown",
        metadata={"order_id": "o"},
        violations=[FieldViolation("event.order_id", "names no order")],
        retry_after_s=2.0,
    )
    assert TABLE["report_gps"].translate(error) is error  # ours: its paths are right already
    error.from_peer = True
    told = TABLE["report_gps"].translate(error)
    assert type(told) is NotFound
    assert told.violations == (FieldViolation("parameters.order_id", "names no order"),)
    assert told.message == "parameters.order_id names no order"
    assert (told.metadata, told.retry_after_s) == ({"order_id": "o"}, 2.0)


def test_a_response_that_is_second_best_says_so() -> None:
    task = TABLE["predict_eta"]
    assert task.degraded(eta_service_pb2.PredictEtaResponse()) is None
    said = degradation_pb2.Degradation(source="eta.prior", reason="no fix")
    response = eta_service_pb2.PredictEtaResponse(degradation=said)
    assert task.degraded(response) == {"source": "eta.prior", "reason": "no fix"}
    assert TABLE["report_gps"].degradations == ()


def test_wrong_parameters_are_named_from_the_bodys_root() -> None:
    with pytest.raises(InvalidArgument) as caught:
        TABLE["report_gps"].read({"location": {"lat": "x"}, "y": 1})
    assert [each.field for each in caught.value.violations] == ["parameters.location.lat", "parameters.y"]


def test_contracts_that_are_on_the_path_twice_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.waymesh, "__path__", [*waymesh.__path__, *waymesh.__path__])

    assert tasks.load().keys() == TABLE.keys()
