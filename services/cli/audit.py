"""`waymesh audit`: who changed what, as the gateway has kept it."""

import click

from services.cli.keys import hand_over


@click.group("audit")
def command() -> None:
    """Show who changed keys, and who called what is for operators, refused calls too."""


@command.command("list")
@click.option("--since", help="15m, 24h or 30d ago, or a moment such as 2026-01-31T00:00:00Z; all without.")
@click.option("--limit", type=click.IntRange(1), help="Entries at most; 100 without.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(since: str | None, limit: int | None, as_json: bool) -> None:
    """Newest first."""
    arguments = ["audit", "list"]
    if since is not None:
        arguments += ["--since", since]
    if limit is not None:
        arguments += ["--limit", str(limit)]
    if as_json:
        arguments.append("--json")
    hand_over(arguments)
