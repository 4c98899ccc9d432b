"""The command line itself: help, exit codes, errors of one line, nothing imported that is not needed."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.cli import main
from services.gateway.settings import GatewaySettings
from tests.faults.up_rig import mesh_ports

PROGRAM = [sys.executable, "-c", "from services.cli import main; main()"]


def waymesh(
    *arguments: str, folder: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return subprocess.run(
        [*PROGRAM, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**kept, **mesh_ports(), "WAYMESH_DATA_DIR": str(folder), **(variables or {})},
    )


COMMANDS = [
    ["up"],
    ["serve"],
    ["restart"],
    ["status"],
    ["replay"],
    ["replay", "gps"],
    ["keys"],
    ["keys", "add"],
    ["keys", "list"],
    ["keys", "scopes"],
    ["keys", "change"],
    ["keys", "rotate"],
    ["keys", "revoke"],
    ["audit"],
    ["audit", "list"],
    ["topics"],
    ["topics", "create"],
    ["topics", "list"],
    ["dead-letters"],
    ["dead-letters", "list"],
    ["dead-letters", "show"],
    ["dead-letters", "replay"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does(arguments: list[str], tmp_path: Path) -> None:
    done = waymesh(*arguments, "--help", folder=tmp_path)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert lines[0].startswith("Usage: waymesh")
    assert len(lines) > 3
    assert all(len(line) <= 100 for line in lines)


def test_help_imports_no_command_and_nothing_heavy(tmp_path: Path) -> None:
    program = """
import sys
from services.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"grpc", "numpy", "rich", "asyncio", "asyncpg", "pydantic", "psutil"} & set(sys.modules)
few = {"services.cli.errors", "services.cli.output"}
commands = {name for name in sys.modules if name.startswith("services.cli.")} - few
sys.exit(f"imported: {heavy} {commands}" if heavy or commands else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "replay" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "words"),
    [
        (["nonsense"], {}, 2, "No such command 'nonsense' (see `waymesh --help`)"),
        (["serve", "nonsense"], {}, 2, "'nonsense' is not one of"),
        (
            ["serve"],
            {},
            2,
            "Missing argument 'SERVICE'. Choose from: feedback, eta, route, agents, gateway (see",
        ),
        (["up", "--dem"], {}, 2, "No such option '--dem'. Did you mean '--demo'? (see `waymesh up --help`)"),
        (["keys", "add"], {}, 2, "Missing argument 'NAME' (see `waymesh keys add --help`)"),
        (["replay", "gps", "/nowhere.csv"], {}, 2, "does not exist"),
        (["replay", "gps", __file__], {}, 1, "line 1 has no column lat, lng, datetime, uid"),
        (["up"], {"PORT": "eighty"}, 1, "PORT holds 'eighty': allowed is an integer from 0 to 65535"),
        (["up"], {"WAYMESH_BIND_HOST": "nosuchhost.invalid"}, 1, "WAYMESH_BIND_HOST holds 'nosuchhost"),
        (["up"], {"WAYMESH_DATA_DIR": "/proc/nowhere"}, 1, "set WAYMESH_DATA_DIR"),
        (["serve", "eta"], {}, 1, "eta has no database: set DATABASE_URL"),
        (["restart", "eta"], {}, 1, "no mesh answers"),
        (["status"], {}, 1, "no mesh answers"),
        (["topics", "create"], {}, 1, "there are no events here: set KAFKA_BOOTSTRAP"),
        (["topics", "create"], {"DATABASE_URL": "nonsense"}, 1, "DATABASE_URL holds 'nonsense'"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    arguments: list[str], variables: dict[str, str], code: int, words: str, tmp_path: Path
) -> None:
    done = waymesh(*arguments, folder=tmp_path, variables=variables)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("waymesh: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "NaN"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["up", "--speed"],
        ["replay", "gps", __file__, "--speed"],
        ["replay", "gps", __file__, "--inject-duplicates"],
        ["replay", "gps", __file__, "--inject-disorder"],
        ["keys", "add", "partner", "--rate"],
    ],
    ids=" ".join,
)
def test_an_option_takes_finite_numbers_only(
    arguments: list[str], number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, number])
    assert ended.value.code == 2
    assert f"'{arguments[-1]}'" in capsys.readouterr().err


def test_the_help_of_a_new_key_names_the_settings_that_count_without_an_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["keys", "add", "--help"])
    told = capsys.readouterr().out
    for name in ("rate_per_s", "rate_burst"):
        setting = GatewaySettings.model_fields[name]
        assert str(setting.validation_alias) in told
        assert f"{setting.default:g}" not in told


def test_a_replay_into_no_mesh_is_told_where_it_was_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "fixes.csv"
    fixes = [f"39.9,116.3,2008-10-23 05:{number:02}:00,a" for number in range(60)]
    path.write_text("\n".join(["lat,lng,datetime,uid", *fixes]))
    done = waymesh(
        *("replay", "gps", str(path), "--json"),
        folder=tmp_path,
        variables={"WAYMESH_ROUTE_TARGET": "127.0.0.1:1", "WAYMESH_ETA_TARGET": "127.0.0.1:2"},
    )
    assert done.returncode == 1
    assert done.stderr == (
        "waymesh: the mesh does not answer at 127.0.0.1:1 and 127.0.0.1:2: start one with `waymesh up`, "
        "or set WAYMESH_ROUTE_TARGET and WAYMESH_ETA_TARGET to where it is\n"
    )


def test_the_version_is_the_installed_one(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert waymesh("--version", folder=tmp_path).stdout == f"waymesh {version('waymesh')}\n"
