"""Settings: names of variables, and what a wrong value says."""

import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, SecretStr

from services.mesh.settings import GrpcSettings, MeshSettings, Port, SettingsError, describe, load


class Settings(MeshSettings):
    """Those of a service."""

    key: SecretStr | None = Field(None, validation_alias="FASTAPI_API_KEY", min_length=8)
    port: Annotated[int, Field(ge=1, le=65535)] = Field(8000, validation_alias="PORT")
    ratio: float = Field(0.5, validation_alias="WAYMESH_RATIO", gt=0, lt=1)
    needed: str = Field(validation_alias="WAYMESH_NEEDED", default="x")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("WAYMESH_", "KAFKA_", "OTEL_", "JAEGER_", "ENABLE_", "PROMETHEUS_", "DATABASE_")):
            monkeypatch.delenv(name)
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.delenv("PORT", raising=False)


def test_variables_have_the_names_of_the_requirements(monkeypatch: pytest.MonkeyPatch):
    given = {
        "WAYMESH_DATA_DIR": ("data_dir", "/data", Path("/data")),
        "DATABASE_URL": ("database_url", "postgresql://u:p@h/d", "postgresql://u:p@h/d"),
        "KAFKA_BOOTSTRAP_SERVERS": ("kafka_bootstrap_servers", "a:9092,b:9092", "a:9092,b:9092"),
        "ENABLE_KAFKA": ("enable_kafka", "false", False),
        "KAFKA_GROUP_ID": ("kafka_group_id", "g", "g"),
        "KAFKA_OUTCOME_TOPIC": ("kafka_outcome_topic", "o", "o"),
        "KAFKA_METRICS_TOPIC": ("kafka_metrics_topic", "m", "m"),
        "KAFKA_BATCH_SIZE": ("kafka_batch_size", "7", 7),
        "KAFKA_LINGER_MS": ("kafka_linger_ms", "8", 8),
        "KAFKA_COMPRESSION": ("kafka_compression", "zstd", "zstd"),
        "KAFKA_MAX_RETRIES": ("kafka_max_retries", "9", 9),
        "KAFKA_SECURITY_PROTOCOL": ("kafka_security_protocol", "ssl", "SSL"),
        "KAFKA_SSL_CAFILE": ("kafka_ssl_cafile", "/ca.pem", Path("/ca.pem")),
        "ENABLE_OUTCOME_LOGGING": ("enable_outcome_logging", "0", False),
        "OTEL_EXPORTER_OTLP_ENDPOINT": ("otel_exporter_otlp_endpoint", "http://c:4318", "http://c:4318"),
        "PROMETHEUS_PORT": ("prometheus_port", "9900", 9900),
        "LOG_LEVEL": ("log_level", "debug", "DEBUG"),
        "WAYMESH_ETA_TARGET": ("eta_target", "eta:50051", "eta:50051"),
        "WAYMESH_ROUTE_TARGET": ("route_target", "route:50052", "route:50052"),
        "WAYMESH_FEEDBACK_TARGET": ("feedback_target", "feedback:50053", "feedback:50053"),
    }
    for variable, (_, text, _) in given.items():
        monkeypatch.setenv(variable, text)
    settings = load(MeshSettings)
    for field, _, value in given.values():
        assert getattr(settings, field) == value


def test_defaults_are_those_of_the_requirements():
    settings = load(MeshSettings)
    assert (settings.kafka_group_id, settings.kafka_batch_size, settings.kafka_linger_ms) == (
        "waymesh",
        100,
        100,
    )
    assert (settings.kafka_compression, settings.kafka_max_retries) == ("gzip", 3)
    assert (settings.kafka_outcome_topic, settings.kafka_metrics_topic) == ("agent-outcomes", "agent-metrics")
    assert settings.bind_host == "127.0.0.1"
    assert [settings.admin_port(place) for place in range(4)] == [9101, 9102, 9103, 9104]


def test_the_admin_port_is_a_services_own_or_at_its_place_above_the_base(monkeypatch: pytest.MonkeyPatch):
    class Second(GrpcSettings):
        admin_place = 1
        port: Port = Field(1, validation_alias="WAYMESH_SECOND_PORT")
        admin: Port | None = Field(None, validation_alias="WAYMESH_SECOND_ADMIN_PORT")

    assert load(Second).admin_listen == 9102
    monkeypatch.setenv("PROMETHEUS_PORT", "9500")
    assert load(Second).admin_listen == 9501
    monkeypatch.setenv("WAYMESH_SECOND_ADMIN_PORT", "0")
    assert load(Second).admin_listen == 0


@pytest.mark.parametrize(
    ("servers", "enable", "expected"),
    [("", "true", False), ("k:9092", "", True), ("k:9092", "true", True), ("k:9092", "false", False)],
)
def test_kafka_is_used_if_there_are_servers_and_it_is_not_switched_off(
    monkeypatch: pytest.MonkeyPatch, servers: str, enable: str, expected: bool
):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    monkeypatch.setenv("ENABLE_KAFKA", enable)
    assert load(MeshSettings).kafka_enabled is expected


@pytest.mark.parametrize("port", ["", ":1", ":9092", ":65535"])
def test_brokers_are_called_by_any_port_there_is(monkeypatch: pytest.MonkeyPatch, port: str):
    servers = f"broker{port}, [::1]{port}"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    assert load(MeshSettings).kafka_bootstrap_servers == servers


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("PORT", "abc", "PORT holds 'abc': allowed is an integer from 1 to 65535"),
        ("PORT", "70000", "PORT holds '70000': allowed is an integer from 1 to 65535"),
        ("WAYMESH_RATIO", "1", "WAYMESH_RATIO holds '1': allowed is a number above 0 below 1"),
        ("ENABLE_KAFKA", "perhaps", "ENABLE_KAFKA holds 'perhaps': allowed is true or false"),
        (
            "KAFKA_COMPRESSION",
            "zip",
            "KAFKA_COMPRESSION holds 'zip': allowed is one of none, gzip, snappy, lz4, zstd",
        ),
        (
            "DATABASE_URL",
            "mysql://waymesh:hunter2@db/x",
            "DATABASE_URL holds 'mysql://waymesh:[redacted]@db/x': allowed is a postgresql:// address",
        ),
        (
            "DATABASE_URL",
            "mysql://waymesh:h@nt:er/2@db/x",
            "DATABASE_URL holds 'mysql://waymesh:[redacted]@db/x': allowed is a postgresql:// address",
        ),
        (
            "FASTAPI_API_KEY",
            "short",
            "FASTAPI_API_KEY holds '[redacted]': allowed is text of at least 8 characters",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4318",
            "OTEL_EXPORTER_OTLP_ENDPOINT holds 'collector:4318': allowed is an http:// or https:// address",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_name_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, line: str
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as wrong:
        load(Settings)
    assert str(wrong.value) == line


def test_several_wrong_values_are_still_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "x\ny")
    monkeypatch.setenv("WAYMESH_RATIO", "y")
    with pytest.raises(SettingsError) as wrong:
        load(Settings)
    assert str(wrong.value) == "PORT holds 'x y': allowed is an integer from 1 to 65535 (and 1 more wrong)"


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("LOG_LEVEL", "")
    settings = load(Settings)
    assert settings.database_url is None
    assert settings.log_level == "INFO"


def test_overrides_win_over_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "1")
    assert load(Settings, port=2).port == 2


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load(Settings).port = 1


def test_the_start_line_shows_everything_but_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FASTAPI_API_KEY", "a-very-secret-key")
    monkeypatch.setenv("DATABASE_URL", "postgresql://waymesh:hunter2@db/waymesh")
    shown = describe(load(Settings))
    assert shown["key"] == "[redacted]"
    assert shown["database_url"] == "postgresql://waymesh:[redacted]@db/waymesh"
    assert shown["port"] == 8000
    assert "hunter2" not in str(shown)
    assert "a-very-secret-key" not in str(shown)


@pytest.mark.parametrize(
    ("variables", "endpoint", "warned"),
    [
        ({}, None, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318", False),
        ({"JAEGER_AGENT_HOST": "jaeger"}, "http://jaeger:4318", True),
        ({"JAEGER_AGENT_HOST": "jaeger", "JAEGER_AGENT_PORT": "6831"}, "http://jaeger:4318", True),
        ({"JAEGER_AGENT_HOST": "jaeger", "JAEGER_AGENT_PORT": "14318"}, "http://jaeger:14318", True),
        (
            {"JAEGER_AGENT_HOST": "jaeger", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
            "http://c:4318",
            False,
        ),
    ],
)
def test_jaegers_variables_stand_in_for_otlp_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], endpoint: str | None, warned: bool
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found, warning = load(MeshSettings).otlp_endpoint()
    assert found == endpoint
    assert (warning is not None) is warned
