"""The table of who calls whom, against what the code calls."""

import ast
from pathlib import Path

from services.gateway import tasks
from services.gateway.rest import binding
from services.mesh.tls import callers

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("eta", "route", "feedback", "agents", "gateway")
# What every process of a service does by mesh/service.py and mesh/feedback: it tells feedback.
FROM_THE_MESH = "feedback"


def targets_named(folder: Path) -> set[str]:
    """Whose target is read from the settings anywhere in a folder: `settings.eta_target` → eta."""
    found = set()
    for path in folder.rglob("*.py"):
        if path.name == "settings.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.endswith("_target"):
                found.add(node.attr.removesuffix("_target"))
    return found & set(SERVICES)


def called_in_code(service: str) -> set[str]:
    called = targets_named(ROOT / "services" / service)
    if service == "gateway":
        # It knows nobody by name: whoever owns a task or a path is called.
        called |= {*tasks.owners(tasks.load()), *(each.owner for each in binding.load())}
    return called | {FROM_THE_MESH}


def test_the_mesh_itself_calls_feedback_alone() -> None:
    assert targets_named(ROOT / "services" / "mesh") == {FROM_THE_MESH}


def test_every_call_of_a_service_is_in_the_table_and_every_line_of_it_is_called() -> None:
    in_code = {(service, called) for service in SERVICES for called in called_in_code(service)}
    in_table = {(call.caller, call.service) for call in callers.CALLS if call.caller in SERVICES}
    assert in_table == in_code


def test_the_operator_calls_what_its_commands_do() -> None:
    by_commands = set(SERVICES)  # `waymesh doctor` asks each how it is
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
