"""The table of who calls whom, against what the code calls."""

import ast
from pathlib import Path

from services.mesh.tls import callers
from tests.deploy.code_calls import NAMES, called_by

ROOT = Path(__file__).resolve().parents[3]


def test_every_call_of_a_service_is_in_the_table_and_every_line_of_it_is_called() -> None:
    in_code = {(service, called) for service in NAMES for called in called_by(service)}
    in_table = {(call.caller, call.service) for call in callers.CALLS if call.caller in NAMES}
    assert in_table == in_code


def test_the_operator_calls_what_its_commands_do() -> None:
    by_commands = set(NAMES)  # `waymesh doctor` asks each how it is
    for folder in ("sim", "cli"):
        for path in (ROOT / "services" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                if named and node.func.id == "target" and isinstance(node.args[0], ast.Constant):
                    by_commands.add(node.args[0].value)
    assert callers.called_by(callers.OPERATOR) == by_commands


def test_each_line_stands_once_and_says_why() -> None:
    assert len({(call.caller, call.service) for call in callers.CALLS}) == len(callers.CALLS)
    assert all(call.because for call in callers.CALLS)


def test_neither_the_edge_nor_the_operator_nor_the_gateway_acts_for_all_tenants() -> None:
    assert {"eta", "route", "feedback", "agents"} == callers.SERVICES
    assert callers.OPERATOR not in callers.SPEAKS_FOR_OTHERS
