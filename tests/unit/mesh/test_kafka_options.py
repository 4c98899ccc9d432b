"""Settings of a Kafka cluster: what goes together, and what a wrong file or login says."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest

from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.settings import MeshSettings, SettingsError, describe, load

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _only_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("KAFKA_", "ENABLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker:9092")


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates with their keys, one of which has a password."""
    folder = tmp_path_factory.mktemp("pems")
    for name, password in (("one", None), ("two", SECRET)):
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2",
            "-subj", f"/CN={name}",
            "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"),
            *(["-nodes"] if password is None else ["-passout", f"pass:{password}"]),
        )  # fmt: skip
    (folder / "both.pem").write_text((folder / "one.pem").read_text() + (folder / "one.key").read_text())
    (folder / "text.pem").write_text("no certificate\n")
    return folder


def _openssl(*arguments: str) -> None:
    try:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes certificates, is not installed")


def line(monkeypatch: pytest.MonkeyPatch, **variables: str | Path) -> str:
    """What a start with these variables says."""
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SettingsError) as wrong:
        load(MeshSettings)
    assert "\n" not in str(wrong.value)
    assert SECRET not in str(wrong.value)
    return str(wrong.value)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"KAFKA_SECURITY_PROTOCOL": "TLS"},
            "KAFKA_SECURITY_PROTOCOL holds 'TLS': allowed is one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL",
        ),
        (
            {"KAFKA_SASL_MECHANISM": "GSSAPI"},
            "KAFKA_SASL_MECHANISM holds 'GSSAPI': allowed is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
            "KAFKA_SASL_MECHANISM is not set: needed is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, "
            "since KAFKA_SECURITY_PROTOCOL is SASL_SSL",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "PLAIN"},
            "KAFKA_SASL_USERNAME is not set: needed is that of the login, "
            "since KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT",
        ),
        (
            {
                "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "KAFKA_SASL_MECHANISM": "plain",
                "KAFKA_SASL_USERNAME": "waymesh",
            },
            "KAFKA_SASL_PASSWORD is not set: needed is that of the login, "
            "since KAFKA_SECURITY_PROTOCOL is SASL_SSL",
        ),
        (
            {"KAFKA_SASL_MECHANISM": "PLAIN"},
            "KAFKA_SASL_MECHANISM holds 'PLAIN': "
            "allowed is a value only while KAFKA_SECURITY_PROTOCOL is SASL_SSL or SASL_PLAINTEXT "
            "(it is PLAINTEXT): set that, or remove this",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SASL_PASSWORD": SECRET},
            "KAFKA_SASL_PASSWORD holds '[redacted]': "
            "allowed is a value only while KAFKA_SECURITY_PROTOCOL is SASL_SSL or SASL_PLAINTEXT "
            "(it is SSL): set that, or remove this",
        ),
        (
            {"KAFKA_SSL_CAFILE": "/ca.pem"},
            "KAFKA_SSL_CAFILE holds '/ca.pem': "
            "allowed is a value only while KAFKA_SECURITY_PROTOCOL is SSL or SASL_SSL "
            "(it is PLAINTEXT): set that, or remove this",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEYFILE": "/key.pem"},
            "KAFKA_SSL_KEYFILE holds '/key.pem': "
            "allowed is a value only with the certificate in KAFKA_SSL_CERTFILE: set that, or remove this",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEY_PASSWORD": SECRET},
            "KAFKA_SSL_KEY_PASSWORD holds '[redacted]': "
            "allowed is a value only with the certificate in KAFKA_SSL_CERTFILE: set that, or remove this",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": "/nowhere/ca.pem"},
            "KAFKA_SSL_CAFILE holds '/nowhere/ca.pem': "
            "allowed is a PEM file that can be read (no such file or directory)",
        ),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "http://broker:9092"},
            "KAFKA_BOOTSTRAP_SERVERS holds 'http://broker:9092': "
            "allowed is host:port of a broker, or several with commas between them",
        ),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092,broker:65536"},
            "KAFKA_BOOTSTRAP_SERVERS holds 'broker:9092,broker:65536': "
            "allowed is host:port of a broker, or several with commas between them",
        ),
    ],
)
def test_what_does_not_go_together_stops_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    assert line(monkeypatch, **variables) == told


@pytest.mark.parametrize(
    ("variables", "variable", "allowed"),
    [
        ({"CAFILE": "text.pem"}, "CAFILE", "a PEM file with certificates, which this one is not"),
        ({"CAFILE": "one.key"}, "CAFILE", "a PEM file with certificates, which this one is not"),
        ({"CERTFILE": "none.pem"}, "CERTFILE", "a PEM file that can be read (no such file or directory)"),
        ({"CERTFILE": "."}, "CERTFILE", "a PEM file that can be read (is a directory)"),
        ({"CERTFILE": "text.pem"}, "CERTFILE", "a PEM file with a certificate, which this one is not"),
        (
            {"CERTFILE": "one.pem"},
            "CERTFILE",
            "a PEM file with certificate and private key, unless KAFKA_SSL_KEYFILE names the key's",
        ),
        (
            {"CERTFILE": "one.pem", "KEYFILE": "text.pem"},
            "KEYFILE",
            "a PEM file with a private key, which this one is not",
        ),
        (
            {"CERTFILE": "two.pem", "KEYFILE": "one.key"},
            "KEYFILE",
            "a PEM file with the key of the certificate in two.pem, which this one is not",
        ),
    ],
)
def test_a_wrong_file_stops_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, pems: Path, variables: dict[str, str], variable: str, allowed: str
) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")
    monkeypatch.chdir(pems)
    given = {f"KAFKA_SSL_{name}": file for name, file in variables.items()}
    told = line(monkeypatch, **given)
    assert told == (f"KAFKA_SSL_{variable} holds '{variables[variable]}': allowed is {allowed}")


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_key_that_its_password_does_not_open_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, pems: Path, password: str | None
) -> None:
    given: dict[str, str | Path] = {
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CERTFILE": pems / "two.pem",
        "KAFKA_SSL_KEYFILE": pems / "two.key",
    }
    if password is not None:
        given["KAFKA_SSL_KEY_PASSWORD"] = password
    held = "is not set: needed is" if password is None else "holds '[redacted]': allowed is"
    expected = f"KAFKA_SSL_KEY_PASSWORD {held} the password of the key in {pems / 'two.key'}"
    assert line(monkeypatch, **given) == expected


def test_files_that_are_not_used_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SSL_CAFILE", "/nowhere/ca.pem")
    monkeypatch.setenv("ENABLE_KAFKA", "false")
    assert not load(MeshSettings).kafka_enabled


@pytest.mark.parametrize(
    ("certificate", "key", "password"),
    [("both.pem", None, None), ("one.pem", "one.key", None), ("two.pem", "two.key", SECRET)],
)
def test_a_certificate_of_our_own_may_come_with_a_key_beside_or_inside(
    monkeypatch: pytest.MonkeyPatch, pems: Path, certificate: str, key: str | None, password: str | None
) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")
    monkeypatch.setenv("KAFKA_SSL_CAFILE", str(pems / "one.pem"))
    monkeypatch.setenv("KAFKA_SSL_CERTFILE", str(pems / certificate))
    if key is not None:
        monkeypatch.setenv("KAFKA_SSL_KEYFILE", str(pems / key))
    if password is not None:
        monkeypatch.setenv("KAFKA_SSL_KEY_PASSWORD", password)

    context = KafkaOptions.from_settings(load(MeshSettings)).ssl_context

    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert [one["subject"] for one in context.get_ca_certs()] == [((("commonName", "one"),),)]


def test_the_login_goes_to_every_client_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "scram-sha-512")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "waymesh")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", SECRET)
    settings = load(MeshSettings)
    options = KafkaOptions.from_settings(settings)

    for arguments in (options.connection(), options.producer(), options.consumer("group")):
        assert arguments["security_protocol"] == "SASL_PLAINTEXT"
        assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
        assert arguments["sasl_plain_username"] == "waymesh"
        assert arguments["sasl_plain_password"] == SECRET
    assert options.ssl_context is None
    shown = f"{describe(settings)} {settings!r} {options!r}"
    assert SECRET not in shown
    assert describe(settings)["kafka_sasl_password"] == "[redacted]"
