"""`waymesh doctor`."""

import asyncio
import json
import os
from dataclasses import replace

import click

from services.cli.errors import CliError
from services.cli.numbers import Number
from services.cli.output import say
from services.cli.table import print_table


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "--timeout", type=Number(min=1, max=300), default=20.0, show_default=True, help="Seconds for all of it."
)
def command(as_json: bool, timeout: float) -> None:
    """Look at a deployment from inside and say what is wrong with it, and what to do.

    With the variables that services have: settings, data folder, certificates, database, schemas, keys,
    topics and what is still to be read, each service, the collector of traces, the server of models. Changes
    nothing and costs no tokens. Exit code 1 if something fails.

    \b
    waymesh doctor --json | jq -r 'select(.state != "ok") | .remedy'
    """
    from services.cli.doctor.finding import State
    from services.cli.doctor.veil import Veil
    from services.cli.doctor.visit import visit

    veil = Veil(os.environ)
    found = [
        replace(one, words=veil(one.words), remedy=veil(one.remedy)) for one in asyncio.run(visit(timeout))
    ]
    if as_json:
        for one in found:
            say(json.dumps(one.as_dict, ensure_ascii=False))
    else:
        print_table(["CHECK", "STATE", "FOUND"], [[one.check, one.state, one.words] for one in found])
        for one in found:
            if one.remedy:
                say(f"{one.check}: {one.remedy}")
    failed = list(dict.fromkeys(one.check for one in found if one.state is State.FAIL))
    if failed:
        raise CliError(f"{len(failed)} of the checks failed: {', '.join(failed)}")
