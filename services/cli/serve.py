"""`waymesh serve`."""

import os
import sys

import click

from services.cli import environment, state
from services.cli.child import service_command
from services.cli.errors import CliError


@click.command("serve")
@click.argument("service", type=click.Choice(environment.SERVICE_NAMES), metavar="SERVICE")
def command(service: str) -> None:
    """Run one SERVICE in the foreground, its JSON log on stderr.

    With DATABASE_URL it stands alone: its peers are where WAYMESH_ETA_TARGET, WAYMESH_ROUTE_TARGET and
    WAYMESH_FEEDBACK_TARGET say. Without, it joins the mesh that `waymesh up` runs on the same data folder.
    """
    environ = dict(os.environ)
    data_dir = environment.data_dir()
    environ["WAYMESH_DATA_DIR"] = str(data_dir)
    spec = environment.service(service)
    if not environ.get("DATABASE_URL"):
        if not state.is_running(data_dir):
            raise CliError(
                f"{service} has no database: set DATABASE_URL to a PostgreSQL server, "
                f"or run `waymesh up` on {data_dir} first"
            )
        _join(environ, state.running(data_dir), spec)
    else:
        chosen = environment.ports(environ)
        for port in spec.ports:
            environment.check_free(chosen[port], port, environ)
    sys.stdout.flush()
    os.execve(sys.executable, service_command(service), environ)


def _join(environ: dict[str, str], mesh: state.MeshState, spec: environment.ServiceSpec) -> None:
    """Database and peers of the running mesh; ports of its own where those of the mesh are taken."""
    environ["DATABASE_URL"] = mesh.dsn
    for name in mesh.services:
        if name != "gateway":
            environ.setdefault(f"WAYMESH_{name.upper()}_TARGET", mesh.target(name))
    taken = {entry.port for entry in mesh.services.values()} | {
        entry.admin_port for entry in mesh.services.values()
    }
    chosen = environment.ports(environ)
    for port in spec.ports:
        number = chosen[port]
        if number in taken and not environ.get(port.variable):
            number = environment.free_port()
            click.echo(f"waymesh: the mesh has port {chosen[port]}; {port.name} is on {number}", err=True)
        else:
            environment.check_free(number, port, environ)
        environ[port.variable] = str(number)
