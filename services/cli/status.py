"""`waymesh status`."""

import click

from services.cli import environment, state
from services.cli.control import ask
from services.cli.runner import State


@click.command("status")
def command() -> None:
    """Show what the mesh on the data folder is doing: each service, its state, process and addresses.

    Below them, what the services cannot use at the moment, such as a Kafka cluster.
    """
    data_dir = environment.data_dir()
    answer = ask(data_dir, {"command": "status"})
    states = answer["services"]
    mesh = state.running(data_dir)
    click.echo(f"mesh on {data_dir}, pid {mesh.pid}")
    for name, entry in mesh.services.items():
        click.echo(
            f"  {name:<9} {states.get(name, entry.state):<9} {entry.host}:{entry.port}"
            f"  pid {entry.pid or '-'}  health http://{entry.host}:{entry.admin_port}/health"
        )
    for place, words in answer.get("troubles", ()):  # none from an `up` of an older version
        click.echo(f"  {place:<9} {State.FAILING:<9} {words}")
