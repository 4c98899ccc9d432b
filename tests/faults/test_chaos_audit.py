"""An account that cannot find a loss is worth nothing: it is given each kind of loss and of duplicate."""

import json
from collections.abc import Iterable
from pathlib import Path

from tests.faults.chaos.audit import (
    Account,
    Finding,
    Seen,
    never_broadcast,
    older_after_newer,
    settle,
    told_twice,
)
from tests.faults.chaos.ledger import DELIVERY, ORDER, OUTCOME, Entry, Ledger
from tests.faults.chaos.plan import KAFKA_KINDS, Kind, plan
from tests.faults.chaos.run import Result

ACKNOWLEDGED = {
    OUTCOME: {"a": Entry(1, 3, 0.0), "b": Entry(1, 4, 0.0)},
    DELIVERY: {"d": Entry(1, 1, 0.0)},
    ORDER: {"o": Entry(2, 5, 0.0)},
}
GIVEN = {
    ("agent-outcomes", "a"): 1,
    ("agent-outcomes", "b"): 1,
    ("agent-outcomes", "another's"): 1,
    ("orders", "order:o@1"): 1,
    ("orders", "order:o@2"): 1,
    ("orders", "courier:c@7"): 1,
}


def account(
    *,
    outcomes: Iterable[str] = ("a", "b", "another's"),
    deliveries: Iterable[str] = ("d",),
    orders: Iterable[tuple[str, int]] = (("o", 2),),
    given: dict[tuple[str, str], int] = GIVEN,
) -> Account:
    return settle(
        ACKNOWLEDGED,
        outcomes=outcomes,
        deliveries=deliveries,
        orders=orders,
        readers=[Seen("first", GIVEN), Seen("second", given)],
    )


def test_when_everything_is_there_once_nothing_is_found() -> None:
    found = account()
    assert found.clean
    assert (found.stored, found.published, found.stored_only) == (4, 3, 1)


def test_what_is_stored_beyond_what_was_acknowledged_is_no_fault() -> None:
    assert account(outcomes=("a", "b", "late"), orders=(("o", 3), ("p", 1))).clean


def test_a_lost_outcome_is_found_with_its_fault() -> None:
    found = account(outcomes=("a",))
    assert found.lost == [Finding("outcome not stored", "b", 4)]
    assert found.stored == 3


def test_a_lost_delivery_is_found() -> None:
    assert account(deliveries=()).lost == [Finding("delivery not stored", "d", 1)]


def test_a_lost_order_and_an_old_revision_are_found() -> None:
    assert account(orders=()).lost == [Finding("order not stored", "o", 5)]
    assert account(orders=(("o", 1),)).lost == [Finding("order stored at revision 1 of 2", "o", 5)]


def test_what_is_stored_twice_is_found() -> None:
    assert account(outcomes=("a", "b", "b")).duplicates == [Finding("outcome stored 2 times", "b", 4)]
    assert account(outcomes=("a", "b", "c", "c")).duplicates == [Finding("outcome stored 2 times", "c", None)]
    assert account(orders=(("o", 2), ("o", 1))).duplicates == [Finding("order stored 2 times", "o", 5)]


def test_what_a_reader_was_never_given_is_found() -> None:
    given = {event: times for event, times in GIVEN.items() if event != ("agent-outcomes", "a")}
    found = account(given=given)
    assert found.lost == [Finding("outcome never given to second", "a", 3)]
    assert found.published == 2


def test_an_order_that_a_reader_knows_in_an_old_revision_only_is_found() -> None:
    given = {event: times for event, times in GIVEN.items() if event != ("orders", "order:o@2")}
    assert account(given=given).lost == [Finding("order given to second at revision 1 of 2", "o", 5)]


def test_a_newer_revision_stands_for_an_older_one_that_was_compacted_away() -> None:
    given = {event: times for event, times in GIVEN.items() if event != ("orders", "order:o@1")}
    assert account(given=given).clean


def test_what_a_reader_was_given_twice_is_found_on_any_topic() -> None:
    given = {**GIVEN, ("agent-outcomes", "a"): 2, ("agent-alerts", "alert"): 3}
    assert account(given=given).duplicates == [
        Finding("agent-outcomes given 2 times to second", "a", 3),
        Finding("agent-alerts given 3 times to second", "alert", None),
    ]


def test_an_alert_that_is_told_twice_is_found() -> None:
    raised, resolved, again = ("k", "1", True), ("k", "1", False), ("k", "2", True)
    assert told_twice([raised, resolved, again, ("other", "3", True)]) == []
    assert told_twice([raised, raised]) == [Finding("alert raised again", "1")]
    assert told_twice([raised, resolved, resolved]) == [Finding("alert resolved again", "1")]
    assert told_twice([raised, again]) == [Finding("alert raised while 1 of the same key is", "2")]
    assert told_twice([resolved]) == [Finding("alert resolved that was never raised", "1")]


def test_an_older_revision_behind_a_newer_one_is_found() -> None:
    came = ["order:o@1", "order:p@1", "order:o@3", "courier:o@1", "order:o@2", "order:p@2"]
    assert older_after_newer("the topic", came) == [
        Finding("came after revision 3 on the topic", "order:o@2")
    ]
    # By number, not by letter.
    assert older_after_newer("the topic", ["order:o@10", "order:o@9"]) == [
        Finding("came after revision 10 on the topic", "order:o@9")
    ]


def test_revisions_in_their_order_are_in_order() -> None:
    for came in (
        ["order:o@1", "order:p@7", "order:o@2", "order:p@8"],
        ["order:o@9", "order:o@10"],
        ["order:o@1", "order:o@3"],  # the one between was compacted away
        ["order:o@2", "order:o@2"],
        ["order:a@b@2", "order:a@1"],  # two orders
        ["", "another's", "@3", "@1", "route:d@5:1.000000001", "route:d@5:1.000000000"],
    ):
        assert older_after_newer("the topic", came) == []


def test_an_order_that_a_reader_of_everything_does_not_know_as_it_is_now_is_found() -> None:
    orders = ACKNOWLEDGED[ORDER]
    assert never_broadcast("all", orders, ["order:o@1", "order:o@2"]) == []
    assert never_broadcast("all", orders, ["order:o@1"]) == [
        Finding("order given to all at revision 1 of 2", "o", 5)
    ]
    assert never_broadcast("all", orders, []) == [Finding("order given to all at revision 0 of 2", "o", 5)]


def test_a_run_that_finds_something_out_of_order_says_so_and_fails() -> None:
    clean, wrong = Result(7, "embedded"), Result(7, "embedded")
    wrong.account.out_of_order.append(Finding("came after revision 2 on the topic", "order:o@1"))
    assert clean.ok
    assert not wrong.account.clean
    assert not wrong.ok
    assert (json.loads(clean.line())["out_of_order"], json.loads(wrong.line())["out_of_order"]) == (0, 1)


def test_the_ledger_keeps_the_newest_revision_and_writes_each_down(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.acknowledge("orders", ORDER, [("o", 1)])
    ledger.fault = 7
    ledger.acknowledge("orders", ORDER, [("o", 2), ("o", 1)])
    ledger.acknowledge("outcomes", OUTCOME, [("a", 1), ("a", 1)])
    # On disk before it is closed.
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    ledger.close()
    assert [line.partition(", ")[2] for line in lines] == [
        '0, "orders", "order", "o", 1]',
        '7, "orders", "order", "o", 2]',
        '7, "outcomes", "outcome", "a", 1]',
    ]
    assert ledger.count == 2
    assert (ledger.of(ORDER)["o"].revision, ledger.of(ORDER)["o"].fault) == (2, 7)


def test_the_same_seed_gives_the_same_faults_and_another_does_not() -> None:
    assert plan(1, 300, kafka=True) == plan(1, 300, kafka=True)
    assert plan(1, 300, kafka=True) != plan(2, 300, kafka=True)


def test_a_run_has_all_kinds_and_one_outage_of_a_minute() -> None:
    faults = plan(1, 200, kafka=True)
    assert {fault.kind for fault in faults} == set(Kind)
    assert [fault.told() for fault in faults if fault.lasts_s == 60] == ["broker-stop 1+2+3 for 60.0 s"]
    assert any(fault.overlaps for fault in faults)
    assert [fault.number for fault in faults] == list(range(1, 201))


def test_without_brokers_nothing_happens_to_them() -> None:
    faults = plan(1, 200, kafka=False)
    assert {fault.kind for fault in faults} == set(Kind) - KAFKA_KINDS
    assert not any(target.startswith("broker") for fault in faults for target in fault.targets)


def test_a_short_run_has_each_kind_once() -> None:
    kinds = [fault.kind for fault in plan(5, len(Kind), kafka=True, each_once=True)]
    assert sorted(kinds) == sorted(Kind)
