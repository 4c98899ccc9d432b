"""`waymesh doctor`: every trouble it knows is made, and named with what to do about it."""

import asyncio
import functools
import json
import resource
import signal
import ssl
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from doctor_rig import (
    DOCTOR,
    clean_environ,
    doctor,
    grpc_health,
    hanging_port,
    http,
    one,
    rows,
    silent_port,
    tls_port,
)

from services.cli.doctor import machine, outside, reach, services, settings
from services.cli.doctor.finding import Finding, State
from services.cli.doctor.scene import Scene
from services.mesh.health import NOT_SERVING, SERVING
from tests.certificates import Authority, Certificate
from tests.processes import until
from tests.running_mesh import ROOT, RunningMesh, running_mesh
from tools.ports import free_ports

CANARY = "canary-5e1f"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of this machine's, and a data folder of our own."""
    for name in ("DATABASE_URL", "OPENAI_API_KEY", "KAFKA_BOOTSTRAP_SERVERS", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WAYMESH_DATA_DIR", str(tmp_path))
    return tmp_path


class TestAWholeMesh:
    @pytest.fixture(scope="class")
    @staticmethod
    def mesh(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
        with running_mesh(module_database, tmp_path_factory.mktemp("mesh")) as running:
            yield running

    @pytest.fixture
    def environ(self, mesh: RunningMesh) -> dict[str, str]:
        targets = {f"WAYMESH_{name.upper()}_TARGET": target for name, target in mesh.targets.items()}
        return clean_environ(
            DATABASE_URL=mesh.dsn,
            WAYMESH_DATA_DIR=str(mesh.folder),
            WAYMESH_GATEWAY_TARGET=f"127.0.0.1:{mesh.gateway}",
            **targets,
        )

    def test_that_is_well_gets_no_remedy_and_exit_code_0(self, environ: dict[str, str]) -> None:
        said = doctor(environ, "--json")
        assert (said.returncode, said.stderr) == (0, "")
        found = rows(said.stdout)
        assert [
            row for row in found if row.state not in (State.OK, State.SKIP) and row.check != "open files"
        ] == []
        assert {row.check for row in found if row.state is State.OK} >= {
            *(
                "settings",
                "data folder",
                "certificate",
                "database",
                "connections",
                "clock",
                "schemas",
                "keys",
            ),
            *("topics", "lag", "feedback", "eta", "route", "agents", "gateway"),
        }

    def test_where_one_service_is_away_names_it_and_who_lacks_it(self, environ: dict[str, str]) -> None:
        environ["WAYMESH_ROUTE_TARGET"] = f"127.0.0.1:{free_ports(1)[0]}"
        said = doctor(environ)
        assert said.returncode == 1
        assert "waymesh: 1 of the checks failed: route" in said.stderr
        assert "route: start route, or correct WAYMESH_ROUTE_TARGET" in said.stdout.splitlines()


async def test_a_variable_of_a_service_that_holds_what_it_may_not_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WAYMESH_RATE_PER_S", "fast")
    row = one(await settings.of_services(Scene.of()), "settings", State.FAIL)
    assert row.words.startswith("WAYMESH_RATE_PER_S holds 'fast': allowed is a number above 0")


async def test_variables_that_nothing_reads_are_named_with_what_may_be_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WAYMESH_ALLOCATION_TICKS", "WAYMESH_DATABASE_URL", "WAYMESH_XYZ"):
        monkeypatch.setenv(name, CANARY)
    for name in ("WAYMESH_ETA_TARGET", "WAYMESH_BENCH_DATA", "WAYMESH_TLS_ALLOWED_PEERS"):
        monkeypatch.setenv(name, "x")
    read, *unread = await settings.of_services(Scene.of())
    assert read.state is State.OK
    assert [(row.check, row.state, row.words) for row in unread] == [
        ("settings", State.WARN, "nothing reads WAYMESH_ALLOCATION_TICKS"),
        ("settings", State.WARN, "nothing reads WAYMESH_DATABASE_URL"),
        ("settings", State.WARN, "nothing reads WAYMESH_XYZ"),
    ]
    tick, database, nobody = (row.remedy for row in unread)
    assert "if WAYMESH_ALLOCATION_TICK_S is meant" in tick
    assert "if DATABASE_URL is meant" in database
    assert nobody.startswith("remove it, or see docs/settings.md")


def test_a_variable_that_all_share_is_named_alone() -> None:
    said = doctor(clean_environ(WAYMESH_DRAIN_S="long"), "--json")
    assert said.returncode == 1
    [row] = rows(said.stdout)
    assert row.words.startswith("WAYMESH_DRAIN_S holds 'long'")


async def test_a_data_folder_that_cannot_be_written_to_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYMESH_DATA_DIR", "/dev/null/waymesh")
    row = one(await machine.data_dir(Scene.of()), "data folder", State.FAIL)
    assert "cannot be written to (not a directory)" in row.words
    assert "WAYMESH_DATA_DIR" in row.remedy


def test_a_data_folder_that_is_not_there_yet_is_not_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WAYMESH_DATA_DIR", str(tmp_path / "a" / "b"))
    assert "MiB free" in one(asyncio.run(machine.data_dir(Scene.of())), "data folder", State.OK).words
    assert list(tmp_path.iterdir()) == []


async def test_too_few_open_files_are_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        assert "1024" in one(await machine.open_files(Scene.of()), "open files", State.WARN).words
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestAService:
    @staticmethod
    async def of(monkeypatch: pytest.MonkeyPatch, target: str) -> list[Finding]:
        monkeypatch.setenv("WAYMESH_ETA_TARGET", target)
        return await services.service(Scene.of(), "eta")

    async def test_whose_name_has_no_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = one(await self.of(monkeypatch, "dns:///eta.invalid:50051"), "eta", State.FAIL)
        assert "the name eta.invalid has no address" in row.words
        assert row.remedy == "correct WAYMESH_ETA_TARGET, or create what it names"

    async def test_behind_which_connections_vanish(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reach, "CONNECT_S", 0.5)
        with silent_port() as port:
            row = one(await self.of(monkeypatch, f"127.0.0.1:{port}"), "eta", State.FAIL)
        assert "no answer within 0.5 s" in row.words
        assert "network policy" in row.remedy

    async def test_that_takes_connections_and_never_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services, "_HEALTH_S", 0.5)
        with hanging_port() as port:
            row = one(await self.of(monkeypatch, f"127.0.0.1:{port}"), "eta", State.FAIL)
        assert "takes connections and" in row.words

    async def test_that_is_not_serving(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with grpc_health(NOT_SERVING) as port:
            row = one(await self.of(monkeypatch, f"127.0.0.1:{port}"), "eta", State.FAIL)
        assert "is not serving" in row.words
        assert "log of eta" in row.remedy

    async def test_of_which_one_address_is_dead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Which names have two addresses is not ours to say on this machine.
        async def two(_host: str, _port: int) -> list[str]:
            return ["127.0.0.1", "127.0.0.2"]

        monkeypatch.setattr(services, "addresses", two)
        async with grpc_health(SERVING) as port:
            found = await self.of(monkeypatch, f"127.0.0.1:{port}")
        assert "1 of 2 addresses" in one(found, "eta", State.WARN).words
        assert "127.0.0.2: connection refused" in one(found, "eta", State.WARN).words
        assert "is serving" in one(found, "eta", State.OK).words


class TestCertificates:
    @pytest.fixture
    def authority(self) -> Authority:
        return Authority()

    @staticmethod
    def use(monkeypatch: pytest.MonkeyPatch, certificate: Certificate, folder: Path) -> None:
        """As the operator."""
        for name, value in certificate.write(folder / "own").variables.items():
            monkeypatch.setenv(name, value)

    @staticmethod
    def server(certificate: Certificate, folder: Path) -> ssl.SSLContext:
        paths = certificate.write(folder / "server")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(paths.certificate, paths.key)
        context.set_alpn_protocols(["h2"])
        return context

    async def look(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, own: Certificate, shown: Certificate
    ) -> list[Finding]:
        self.use(monkeypatch, own, bare)
        monkeypatch.setattr(services, "_HEALTH_S", 0.5)
        with tls_port(self.server(shown, bare)) as port:
            monkeypatch.setenv("WAYMESH_ETA_TARGET", f"127.0.0.1:{port}")
            return await services.service(Scene.of(), "eta")

    async def test_of_another_authority(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        found = await self.look(monkeypatch, bare, authority.issue("operator"), Authority().issue("eta"))
        assert "unable to get local issuer certificate" in one(found, "eta", State.FAIL).words

    async def test_for_another_name(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        shown = authority.issue("eta", hosts=("eta.waymesh.svc",))
        row = one(await self.look(monkeypatch, bare, authority.issue("operator"), shown), "eta", State.FAIL)
        assert "127.0.0.1" in row.words
        assert "certificate for that name" in row.remedy

    async def test_that_has_ended(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        shown = authority.issue("eta", begins=-timedelta(days=2), ends=-timedelta(days=1))
        found = await self.look(monkeypatch, bare, authority.issue("operator"), shown)
        assert "certificate has expired" in one(found, "eta", State.FAIL).words

    async def test_of_another_service(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        found = await self.look(monkeypatch, bare, authority.issue("operator"), authority.issue("route"))
        row = next(row for row in found if "shows a certificate of" in row.words)
        assert row.state is State.FAIL
        assert row.words.endswith("/sa/route")

    async def test_that_ends_soon_here_and_there(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        found = await self.look(monkeypatch, bare, authority.issue("operator"), authority.issue("eta"))
        assert "1.0 days" in one(found, "eta", State.WARN).words
        own = one(await services.own_certificate(Scene.of()), "certificate", State.WARN)
        assert "renew it" in own.remedy

    async def test_of_another_mesh_than_the_services(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        own = authority.issue("eta", uris=("spiffe://other/eta",))
        found = await self.look(monkeypatch, bare, own, authority.issue("eta"))
        row = next(row for row in found if "shows spiffe://waymesh.test/ns/waymesh/sa/eta" in row.words)
        assert row.state is State.FAIL
        assert row.words.endswith("of another mesh: spiffe://other/eta")
        assert "use a certificate of spiffe://waymesh.test/ns/waymesh/sa/ here" in row.remedy

    async def test_that_a_service_which_hangs_does_not_come_to_show(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        self.use(monkeypatch, authority.issue("operator"), bare)
        monkeypatch.setattr(reach, "CONNECT_S", 0.5)
        with hanging_port() as port:
            for name in ("eta", "gateway"):
                monkeypatch.setenv(f"WAYMESH_{name.upper()}_TARGET", f"127.0.0.1:{port}")
            service = one(await services.service(Scene.of(), "eta"), "eta", State.FAIL)
            gateway = one(await services.gateway(Scene.of()), "gateway", State.FAIL)
        for row in (service, gateway):
            assert "the handshake did not end within 0.5 s" in row.words
            assert row.remedy.startswith(f"restart {row.check} if it hangs; ")

    async def test_where_none_are_used(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        self.use(monkeypatch, authority.issue("operator"), bare)
        async with grpc_health(SERVING) as port:
            monkeypatch.setenv("WAYMESH_ETA_TARGET", f"127.0.0.1:{port}")
            row = one(await services.service(Scene.of(), "eta"), "eta", State.FAIL)
        assert "no TLS there" in row.words or "handshake" in row.words

    async def test_that_are_missing_here(
        self, monkeypatch: pytest.MonkeyPatch, bare: Path, authority: Authority
    ) -> None:
        with tls_port(self.server(authority.issue("eta"), bare)) as port:
            monkeypatch.setenv("WAYMESH_ETA_TARGET", f"127.0.0.1:{port}")
            monkeypatch.setattr(services, "_HEALTH_S", 5.0)
            row = one(await services.service(Scene.of(), "eta"), "eta", State.FAIL)
        assert "if eta speaks TLS, set WAYMESH_TLS_* here too" in row.remedy

    async def test_left_away_on_purpose(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WAYMESH_ALLOW_PLAINTEXT", "true")
        row = one(await services.own_certificate(Scene.of()), "certificate", State.WARN)
        assert "plain text" in row.words


class TestTheGateway:
    @staticmethod
    async def of(monkeypatch: pytest.MonkeyPatch, status: int, told: object) -> list[Finding]:
        with http({"/health/ready": (status, told)}) as server:
            monkeypatch.setenv("WAYMESH_GATEWAY_TARGET", server.address.removeprefix("http://"))
            return await services.gateway(Scene.of())

    async def test_that_is_not_ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = one(await self.of(monkeypatch, 503, {"status": "starting"}), "gateway", State.FAIL)
        assert "answers 503, starting" in row.words

    async def test_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services, "ask", functools.partial(reach.ask, limit_s=0.5))
        with hanging_port() as port:
            monkeypatch.setenv("WAYMESH_GATEWAY_TARGET", f"127.0.0.1:{port}")
            row = one(await services.gateway(Scene.of()), "gateway", State.FAIL)
        assert row.remedy == "restart gateway if it hangs, or correct WAYMESH_GATEWAY_TARGET"

    async def test_that_lacks_a_service_or_its_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        checks = {"keys": "the store is away", "eta": "unreachable", "route": "idle"}
        row = one(await self.of(monkeypatch, 200, {"status": "ok", "checks": checks}), "gateway", State.WARN)
        assert row.words.endswith("cannot use keys: the store is away, eta: unreachable")


class TestTheModel:
    @staticmethod
    async def of(monkeypatch: pytest.MonkeyPatch, status: int, models: list[str]) -> list[Finding]:
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        monkeypatch.setenv("OPENAI_MODEL", "gpt-4.1-mini")
        with http({"/v1/models": (status, {"data": [{"id": name} for name in models]})}) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", f"{server.address}/v1")
            found = await outside.model(Scene.of())
        assert server.asked == [("GET", "/v1/models", f"Bearer {CANARY}")]
        return found

    async def test_that_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one(await self.of(monkeypatch, 200, ["gpt-4.1-mini"]), "model", State.OK)

    async def test_that_the_server_does_not_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "no gpt-4.1-mini" in one(await self.of(monkeypatch, 200, ["other"]), "model", State.WARN).words

    async def test_whose_server_refuses_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "refuses OPENAI_API_KEY" in one(await self.of(monkeypatch, 401, []), "model", State.FAIL).words


@pytest.mark.parametrize(("status", "state"), [(200, State.OK), (404, State.WARN)])
async def test_the_collector_of_traces_is_given_a_request_for_no_spans(
    monkeypatch: pytest.MonkeyPatch, status: int, state: State
) -> None:
    with http({"/v1/traces": (status, {})}) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.address)
        one(await outside.traces(Scene.of()), "traces", state)
    assert [asked[:2] for asked in server.asked] == [("POST", "/v1/traces")]


async def test_a_collector_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert "connection refused" in one(await outside.traces(Scene.of()), "traces", State.WARN).words


def secrets() -> dict[str, str]:
    """A canary in everything that may hold a secret."""
    port = free_ports(1)[0]
    return {
        "DATABASE_URL": f"postgresql://waymesh:{CANARY}@127.0.0.1:{port}/{CANARY}",
        "FASTAPI_API_KEY": f"wm_{CANARY}",
        "OPENAI_API_KEY": f"sk-{CANARY}",
        "OPENAI_BASE_URL": f"http://user:{CANARY}@127.0.0.1:{port}/v1",
        "WEATHER_API_KEY": CANARY,
        "KAFKA_SASL_PASSWORD": CANARY,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{CANARY}@127.0.0.1:{port}",
    }


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_secret_is_printed_whatever_fails(form: list[str], tmp_path: Path) -> None:
    said = doctor(clean_environ(WAYMESH_DATA_DIR=str(tmp_path), **secrets()), *form)
    assert said.returncode == 1
    assert "cannot be reached (connection refused)" in said.stdout
    assert CANARY not in said.stdout + said.stderr


async def test_it_ends_in_time_whatever_hangs(tmp_path: Path) -> None:
    with hanging_port() as port:
        environ = clean_environ(
            WAYMESH_DATA_DIR=str(tmp_path),
            DATABASE_URL=f"postgresql://waymesh@127.0.0.1:{port}/waymesh",
            KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}",
            WAYMESH_GATEWAY_TARGET=f"127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            **{
                f"WAYMESH_{name}_TARGET": f"127.0.0.1:{port}"
                for name in ("ETA", "ROUTE", "FEEDBACK", "AGENTS")
            },
        )
        said = await asyncio.to_thread(doctor, environ, "--json", "--timeout", "1.5")
    assert said.returncode == 1
    found = rows(said.stdout)
    failed = {row.check for row in found if row.state is State.FAIL}
    assert failed >= {"database", "events", "eta", "route", "feedback", "agents", "gateway"}
    late = {row.check for row in found if row.words == "not done within 1.5 s"}
    assert late >= {"database", "events", "gateway", "traces"}


def has_children(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().strip())


async def test_ctrl_c_ends_it_with_one_line(tmp_path: Path) -> None:
    with hanging_port() as port:
        environ = clean_environ(
            WAYMESH_DATA_DIR=str(tmp_path), DATABASE_URL=f"postgresql://waymesh@127.0.0.1:{port}/waymesh"
        )
        for _ in range(5):  # on a busy machine it may be through before the signal comes
            # Whoever starts tests in the background of a script has them ignore it.
            process = await asyncio.create_subprocess_exec(
                *("env", "--default-signal=INT", *DOCTOR),
                env=environ,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            # The loop is there once a process that reads settings is its child.
            await until(partial(has_children, process.pid), "the settings are being read")
            process.send_signal(signal.SIGINT)
            out, said = await process.communicate()
            if process.returncode != 1:
                break
    assert (process.returncode, out.decode(), said.decode()) == (130, "", "waymesh: interrupted\n")


def test_json_is_one_object_a_line_with_the_same_fields(tmp_path: Path) -> None:
    said = doctor(clean_environ(WAYMESH_DATA_DIR=str(tmp_path)), "--json")
    assert {frozenset(json.loads(line)) for line in said.stdout.splitlines()} == {
        frozenset({"check", "state", "found", "remedy"})
    }
