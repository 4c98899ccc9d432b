"""What a scope opens, what it does not, and what may be given as one."""

import pytest

from services.gateway import rpcs, scopes, tasks
from services.gateway.scopes import Scopes

RPCS = rpcs.load()
TASKS = tasks.load()
FOR_OPERATORS = {rpc.scope for rpc in RPCS.values() if rpc.admin}


def test_a_key_without_scopes_of_its_own_may_do_all_that_is_not_for_operators() -> None:
    for rpc in RPCS.values():
        assert Scopes().allows(rpc.scope, admin=rpc.admin) is not rpc.admin


def test_admin_opens_what_is_for_operators_and_nothing_else() -> None:
    for rpc in RPCS.values():
        assert Scopes(("admin",)).allows(rpc.scope, admin=rpc.admin) is rpc.admin


def test_no_pattern_opens_what_is_for_operators() -> None:
    for patterns in (("*",), ("silence_alert",), ("s*", "*_alert"), ("a*",), ("*admin*",)):
        assert not Scopes(patterns).allows("silence_alert", admin=True)


@pytest.mark.parametrize(
    ("patterns", "opened"),
    [
        (("get_order",), {"get_order"}),
        (("get_*",), {name for name in TASKS if name.startswith("get_")}),
        (("*_agent", "ask"), {name for name in TASKS if name.endswith("_agent")} | {"ask"}),
        (("list_*_versions",), {"list_agent_versions"}),
    ],
)
def test_a_pattern_opens_what_has_such_a_name(patterns: tuple[str, ...], opened: set[str]) -> None:
    assert {name for name, task in TASKS.items() if Scopes(patterns).allows(name, admin=task.admin)} == opened


def test_a_pattern_is_no_regular_expression() -> None:
    assert not Scopes(("get.order",)).allows("get_order")
    assert not Scopes(("get_order",)).allows("get_orders")
    assert not Scopes(("get_*",)).allows("target_x")


def test_keeping_alerts_quiet_is_for_operators_and_what_clients_use_is_not() -> None:
    assert {"silence_alert"} == FOR_OPERATORS


def test_a_scope_means_one_rpc() -> None:
    names = [rpc.scope for rpc in RPCS.values()]
    assert len(names) == len(set(names))
    assert "admin" not in names


def test_streams_have_a_scope_of_their_own_name() -> None:
    assert RPCS["/waymesh.eta.v1.EtaService/StreamGps"].scope == "stream_gps"
    assert RPCS["/waymesh.eta.v1.EtaService/WatchEta"].scope == "watch_eta"
    assert all(rpc.scope.replace("_", "") == path.rpartition("/")[2].lower() for path, rpc in RPCS.items())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("get_ordre", "near it are get_order"),
        ("frob_*", "no task has a name like 'frob_*'"),
        ("silence_alert", "is for operators alone: give the scope admin"),
        ("silence_*", "is for operators alone"),
        ("Get Order", "is no scope"),
        ("", "is no scope"),
        ("a" * 65, "is no scope"),
    ],
)
def test_a_scope_that_opens_nothing_is_told_with_the_remedy(given: str, words: str) -> None:
    [fault] = scopes.faults([given], RPCS.values())
    assert words in fault


def test_scopes_that_open_something_are_right() -> None:
    assert scopes.faults(["*", "admin", "get_*", "predict_eta", "stream_gps"], RPCS.values()) == []


def test_a_key_has_no_more_scopes_than_a_table_holds() -> None:
    assert scopes.faults([], RPCS.values()) == ["a key has 1 to 64 scopes"]
    assert "a key has 1 to 64 scopes" in scopes.faults(["*"] * 65, RPCS.values())
