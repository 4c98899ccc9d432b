"""The command `waymesh`. Each subcommand is a module of its own, imported only when it is called or asked
about.
"""

import gc
import sys
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from services.cli import output
from services.cli.errors import CliError, CutShortError

# Name → (module, what it does). The words stand here so that `waymesh --help` imports no command.
_COMMANDS: Final = {
    "up": ("services.cli.up", "Start the whole mesh and keep it running."),
    "serve": ("services.cli.serve", "Run one service in the foreground."),
    "restart": ("services.cli.restart", "Restart a service of a running mesh without a failed request."),
    "status": ("services.cli.status", "Show what a running mesh is doing."),
    "health": ("services.cli.health", "Ask one service whether it takes requests."),
    "doctor": ("services.cli.doctor", "Look at a deployment from inside and say what is wrong."),
    "replay": ("services.cli.replay", "Send recorded data through a running mesh."),
    "migrate": ("services.cli.migrate", "Bring the database up to date, or tell what it lacks."),
    "keys": ("services.cli.keys", "Add, list, change, rotate and revoke API keys."),
    "audit": ("services.cli.audit", "Show who changed what."),
    "topics": ("services.cli.topics", "Create and list the event topics."),
    "dead-letters": ("services.cli.dead_letters", "See what could not be handled, and send it back."),
}


# So many new objects until a look for garbage, 700 by default: most of them are imports, which stay.
_GARBAGE: Final = 50_000


class _Commands(click.Group):
    """Commands by name, loaded late."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # of which click tells with an empty line
            raise CutShortError("interrupted") from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = import_module(entry[0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"waymesh {version('waymesh')}")
    ctx.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from environment variables: `waymesh up --help` names the usual ones.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Say the version."
)
def _waymesh() -> None:
    """Dispatch brain of a delivery company: GPS fixes in; arrival times, routes and allocations out.

    Start with `waymesh up --demo`: it needs no database and no broker, and shows a small fleet at work.
    """


def _usage(error: click.UsageError) -> str:
    """What is wrong with the words of a command, on one line."""
    words = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "waymesh"
    return f"{words} (see `{command} --help`)"


def _end_without_output(error: CliError) -> NoReturn:
    output.give_up()
    if str(error):
        click.echo(f"waymesh: {error}", err=True)
    sys.exit(error.exit_code)


def main(args: list[str] | None = None) -> None:
    """Entry point of the script. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    gc.set_threshold(_GARBAGE)
    try:
        if (sys.argv[1:] if args is None else args)[:1] != ["serve"]:  # of which all is in the log
            output.need()
        code: Any = _waymesh.main(args=args, prog_name="waymesh", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        click.echo(f"waymesh: {_usage(error)}", err=True)
        sys.exit(2)
    except output.OutputError as error:
        _end_without_output(error)
    except CliError as error:
        click.echo(f"waymesh: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        found = output.lost(error)
        if found is None:
            raise
        _end_without_output(found)
    sys.exit(code if isinstance(code, int) else 0)


__all__ = ["main"]
