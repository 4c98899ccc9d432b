"""`waymesh up`."""

import os

import click

from services.cli import environment
from services.cli.numbers import Number
from services.cli.settings_check import SettingsCheck


@click.command("up")
@click.option("--demo", is_flag=True, help="Put a small simulated fleet to work and show how it does.")
@click.option(
    "--speed",
    type=Number(min=0.1, max=60),
    default=30.0,
    show_default=True,
    help="With --demo: simulated seconds per second.",
)
@click.option(
    "--couriers", type=click.IntRange(1, 500), default=12, show_default=True, help="With --demo: couriers."
)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="With --demo: the same seed, the same day."
)
@click.option("--verbose", "-v", is_flag=True, help="Show the services' log lines as well.")
def command(demo: bool, speed: float, couriers: int, seed: int, verbose: bool) -> int:
    """Start the whole mesh and keep it running: PostgreSQL, feedback, eta, route, agents and the gateway.

    Needs nothing else. Prints the addresses and a curl line that works, then one line per change of state. A
    service that crashes is started again. Ctrl-C drains and stops everything; a second Ctrl-C does not wait.

    \b
    Variables you may want to set:
      WAYMESH_DATA_DIR         where database, keys and logs are kept
      DATABASE_URL             a PostgreSQL server to use instead of the embedded one
      KAFKA_BOOTSTRAP_SERVERS  a Kafka cluster to use instead of the embedded event bus
      FASTAPI_API_KEY          the first API key; without it one is made and kept in the data folder
      PORT                     the gateway's port, 8000 by default
      WAYMESH_ETA_PORT, WAYMESH_ROUTE_PORT, WAYMESH_FEEDBACK_PORT, WAYMESH_AGENTS_PORT
                               gRPC ports, 50051 to 50054 by default
      PROMETHEUS_PORT          the first of the admin ports (metrics, health), 9101 by default
      WAYMESH_BIND_HOST        where to listen, 127.0.0.1 by default
      WAYMESH_TLS_CERT_FILE, WAYMESH_TLS_KEY_FILE, WAYMESH_TLS_CA_FILE
                               certificates, with {service} in the paths for each service's name
      LOG_LEVEL                DEBUG, INFO, WARNING, ERROR or CRITICAL
    """
    with SettingsCheck(os.environ) as check:
        # Late: what takes time to import is imported while the check runs.
        import asyncio

        from services.cli.demo import demo_command
        from services.cli.screen import Screen
        from services.cli.supervisor import Plan, Supervisor

        environ = environment.with_admin_ports(os.environ)
        plan = Plan(
            data_dir=environment.data_dir(),
            host=environment.bind_host(),
            ports=environment.ports(environ),
            database_url=os.environ.get("DATABASE_URL") or None,
            environ=environ,
            verbose=verbose,
            demo=demo_command(couriers=couriers, speed=speed, seed=seed) if demo else None,
        )
        supervisor = Supervisor(plan, Screen())
        check.finish()
    return asyncio.run(supervisor.run())
