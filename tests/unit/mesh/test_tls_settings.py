"""What the variables of TLS may hold, and where a service refuses to be plain."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from services.eta.settings import EtaSettings
from services.gateway.settings import GatewaySettings
from services.mesh.settings import MeshSettings, SettingsError, load
from tests.certificates import FOLDER, Authority, Paths

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def paths(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    paths = authority.issue("eta").write(tmp_path / "tls")
    set_all(monkeypatch, paths.variables)
    return paths


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def refusal(settings: type[MeshSettings] = EtaSettings) -> str:
    with pytest.raises(SettingsError) as caught:
        load(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_three_good_files_are_taken(paths: Paths) -> None:
    assert load(EtaSettings).tls_cert_file == paths.certificate


@pytest.mark.parametrize("missing", ["CERT", "KEY", "CA"])
def test_one_file_needs_the_other_two(paths: Paths, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delenv(f"WAYMESH_TLS_{missing}_FILE")
    assert refusal().startswith(f"WAYMESH_TLS_{missing}_FILE is not set: needed is a PEM file, since WAYMESH")


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("tls.crt", "WAYMESH_TLS_CERT_FILE"),
        ("tls.key", "WAYMESH_TLS_KEY_FILE"),
        ("ca.crt", "WAYMESH_TLS_CA_FILE"),
    ],
)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "a PEM file that can be read (no such file or directory)"),
        (lambda path: path.write_bytes(b""), "a PEM file with"),
        (lambda path: path.write_bytes(b"\xff\x00 no PEM"), "a PEM file with"),
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), "a PEM file with"),
        (lambda path: (path.unlink(), path.mkdir()), "a PEM file, which this is not"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "a PEM file, which this is not"),
        (lambda path: path.write_bytes(bytes(2 << 20)), "a PEM file of at most 1 MiB"),
    ],
    ids=["missing", "empty", "not-pem", "half", "folder", "pipe", "huge"],
)
def test_a_file_that_cannot_be_used_is_named(
    paths: Paths, name: str, variable: str, spoil: object, words: str
) -> None:
    assert callable(spoil)
    spoil(paths.folder / name)
    said = refusal()
    assert said.startswith(f"{variable} holds '{paths.folder / name}': allowed is {words}")


def test_a_key_of_another_certificate_is_refused(paths: Paths, authority: Authority) -> None:
    paths.key.write_bytes(authority.issue("eta").key)
    assert "the key of the certificate in" in refusal()


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [(-2 * HOUR, -HOUR, "this one has ended"), (HOUR, 2 * HOUR, "this one begins later")],
)
def test_a_certificate_out_of_its_time_is_refused(
    paths: Paths, authority: Authority, begins: timedelta, ends: timedelta, words: str
) -> None:
    authority.issue("eta", begins=begins, ends=ends).write(paths.folder)
    assert words in refusal()


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://waymesh.test/eta",),
        ("spiffe://waymesh.test",),
        (FOLDER + "eta", FOLDER + "route"),
        ("spiffe://waymesh.test/../eta",),
        ("spiffe://waymesh.test/eta/",),
    ],
)
def test_a_certificate_that_names_no_service_is_refused(
    paths: Paths, authority: Authority, uris: tuple[str, ...]
) -> None:
    authority.issue("eta", uris=uris).write(paths.folder)
    assert "a certificate with one URI name, spiffe://<trust domain>/…/<service>" in refusal()


def test_a_service_with_the_certificate_of_another_does_not_start(paths: Paths, authority: Authority) -> None:
    authority.issue("route").write(paths.folder)
    assert f"a certificate of eta, and this one is for {FOLDER}route" in refusal()


def test_one_variable_leads_each_service_to_its_own_file(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ("eta", "gateway", "operator"):
        authority.issue(service, client_only=service == "operator").write(tmp_path / service)
    set_all(monkeypatch, Paths(tmp_path / "{service}").variables)

    found = [load(each).tls_key_file for each in (EtaSettings, GatewaySettings, MeshSettings)]

    assert found == [tmp_path / service / "tls.key" for service in ("eta", "gateway", "operator")]


@pytest.mark.parametrize("settings", [EtaSettings, GatewaySettings])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "eta.example"])
def test_a_service_refuses_to_be_plain_off_loopback(
    monkeypatch: pytest.MonkeyPatch, settings: type[MeshSettings], host: str
) -> None:
    monkeypatch.setenv("WAYMESH_BIND_HOST", host)
    said = refusal(settings)
    assert said.startswith(f"WAYMESH_BIND_HOST holds '{host}': allowed is an address of loopback without TLS")
    for variable in (*Paths(Path()).variables, "WAYMESH_ALLOW_PLAINTEXT=true"):
        assert variable in said


@pytest.mark.parametrize(
    "target", ["eta:50051", "dns:///eta.waymesh.svc:50051", "10.0.0.1:50051", "ipv4:127.0.0.1:1,10.0.0.1:1"]
)
def test_a_service_refuses_to_call_in_plain_text_off_loopback(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setenv("WAYMESH_ETA_TARGET", target)
    assert refusal().startswith(f"WAYMESH_ETA_TARGET holds '{target}': allowed is an address of loopback")


@pytest.mark.parametrize(
    "target", ["localhost:1", "[::1]:1", "dns:///127.0.0.1:1", "unix:/run/eta", "127.0.0.9:1"]
)
def test_on_loopback_nothing_need_be_encrypted(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("WAYMESH_ETA_TARGET", target)
    assert load(EtaSettings).eta_target == target


@pytest.mark.parametrize("settings", [EtaSettings, GatewaySettings])
def test_plain_text_off_loopback_can_be_allowed(
    monkeypatch: pytest.MonkeyPatch, settings: type[MeshSettings]
) -> None:
    monkeypatch.setenv("WAYMESH_BIND_HOST", "0.0.0.0")
    monkeypatch.setenv("WAYMESH_ALLOW_PLAINTEXT", "true")
    assert load(settings).bind_host == "0.0.0.0"


def test_with_tls_a_service_serves_anywhere(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYMESH_BIND_HOST", "0.0.0.0")
    monkeypatch.setenv("WAYMESH_FEEDBACK_TARGET", "feedback:50053")
    assert load(EtaSettings).bind_host == "0.0.0.0"


def test_runtimes_stay_on_loopback_whatever_else_is_encrypted(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, authority.issue("gateway").write(tmp_path).variables)
    monkeypatch.setenv("WAYMESH_RUNTIME_HOST", "0.0.0.0")
    assert refusal(GatewaySettings).startswith("WAYMESH_RUNTIME_HOST holds '0.0.0.0': allowed is an address")


def test_further_peers_are_names_or_whole_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYMESH_TLS_ALLOWED_PEERS", "dashboards, spiffe://other/ns/edge/sa/edge")
    assert load(EtaSettings).allowed_peers == {"dashboards", "spiffe://other/ns/edge/sa/edge"}


@pytest.mark.parametrize("held", ["a b", "*", "spiffe://x", "https://x/y", ",", "a,,b"])
def test_what_names_nobody_is_refused(monkeypatch: pytest.MonkeyPatch, held: str) -> None:
    monkeypatch.setenv("WAYMESH_TLS_ALLOWED_PEERS", held)
    assert refusal().startswith(f"WAYMESH_TLS_ALLOWED_PEERS holds '{held}': allowed is names of services")
