"""Settings from environment variables, read once at start into one frozen object per service.

A wrong value stops the start with one line: the variable, what it holds (secrets masked), what is allowed.
"""

import os
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

import annotated_types
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

S = TypeVar("S", bound=BaseSettings)

# Ports of Jaeger's old UDP agent; an OTLP collector does not listen there.
_JAEGER_UDP_PORTS: Final = frozenset({5775, 6831, 6832})
_OTLP_HTTP_PORT: Final = 4318


class SettingsError(Exception):
    """A variable holds what is not allowed. The text is one line, fit to be shown as it stands."""


class Disagreement(ValueError):  # noqa: N818 - it names what is wrong: no value by itself
    """Raised by a validator about a variable that another one, or a file that it names, rules out.

    `allowed` says what it may hold, as after "allowed is"; of a variable that is not set, what is needed.
    """

    def __init__(self, variable: str, held: object, allowed: str) -> None:
        super().__init__(allowed)
        self.variable = variable
        self.held = held
        self.allowed = allowed


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _http_url(value: str) -> str:
    if not re.match(r"https?://[^/\s]+", value):
        raise ValueError("not an http:// or https:// address")
    return value


# One address is a name, an IPv4 address or an IPv6 address in brackets; without a port it is Kafka's 9092.
_PORT: Final = r"(6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3})"
_KAFKA_SERVER: Final = rf"\s*(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:{_PORT})?\s*"
_KAFKA_SERVERS: Final = rf"^{_KAFKA_SERVER}(,{_KAFKA_SERVER})*$"

# Who may call: a last part of a SPIFFE ID, or a whole one.
_PEER: Final = r"\s*(spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+|[A-Za-z0-9._-]+)\s*"
_PEERS: Final = rf"^{_PEER}(,{_PEER})*$"

Port = Annotated[int, Field(ge=0, le=65535)]
HttpUrl = Annotated[str, AfterValidator(_http_url), Field(description="an http:// or https:// address")]
Target = Annotated[
    str, Field(min_length=1, description="host:port or a gRPC target such as dns:///eta:50051")
]


# One variable for the processes of several services, each of which has a file of its own.
OwnFile = Annotated[Path, Field(description="a path; {service} in it stands for the service's name")]


def default_data_dir() -> Path:
    """Root keeps data outside any home, since PostgreSQL then runs as another user who must reach it."""
    if os.geteuid() == 0:
        return Path("/var/lib/waymesh")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "waymesh"


class MeshSettings(BaseSettings):
    """What all services share. A service's own settings are a subclass with more fields."""

    model_config = SettingsConfigDict(
        frozen=True, case_sensitive=True, env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    # Who reads them; commands do so for the operator.
    service: ClassVar[str] = "operator"

    data_dir: Path = Field(default_factory=default_data_dir, validation_alias="WAYMESH_DATA_DIR")
    database_url: str | None = Field(
        None,
        validation_alias="DATABASE_URL",
        pattern=r"^postgres(ql)?://",
        description="a postgresql:// address",
    )

    kafka_bootstrap_servers: str | None = Field(
        None,
        validation_alias="KAFKA_BOOTSTRAP_SERVERS",
        pattern=_KAFKA_SERVERS,
        description="host:port of a broker, or several with commas between them",
    )
    enable_kafka: bool = Field(True, validation_alias="ENABLE_KAFKA")
    kafka_group_id: str = Field("waymesh", validation_alias="KAFKA_GROUP_ID", min_length=1)
    kafka_outcome_topic: str = Field("agent-outcomes", validation_alias="KAFKA_OUTCOME_TOPIC", min_length=1)
    kafka_metrics_topic: str = Field("agent-metrics", validation_alias="KAFKA_METRICS_TOPIC", min_length=1)
    kafka_batch_size: int = Field(100, validation_alias="KAFKA_BATCH_SIZE", ge=1, le=100_000)
    kafka_linger_ms: int = Field(100, validation_alias="KAFKA_LINGER_MS", ge=0, le=60_000)
    kafka_compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "gzip", validation_alias="KAFKA_COMPRESSION"
    )
    kafka_max_retries: int = Field(3, validation_alias="KAFKA_MAX_RETRIES", ge=0, le=1000)
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)
    ] = Field("PLAINTEXT", validation_alias="KAFKA_SECURITY_PROTOCOL")
    kafka_ssl_cafile: Path | None = Field(None, validation_alias="KAFKA_SSL_CAFILE")
    kafka_ssl_certfile: Path | None = Field(None, validation_alias="KAFKA_SSL_CERTFILE")
    kafka_ssl_keyfile: Path | None = Field(None, validation_alias="KAFKA_SSL_KEYFILE")
    kafka_ssl_key_password: SecretStr | None = Field(None, validation_alias="KAFKA_SSL_KEY_PASSWORD")
    kafka_sasl_mechanism: (
        Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], BeforeValidator(_upper)] | None
    ) = Field(None, validation_alias="KAFKA_SASL_MECHANISM")
    kafka_sasl_username: str | None = Field(None, validation_alias="KAFKA_SASL_USERNAME")
    kafka_sasl_password: SecretStr | None = Field(None, validation_alias="KAFKA_SASL_PASSWORD")

    enable_outcome_logging: bool = Field(True, validation_alias="ENABLE_OUTCOME_LOGGING")

    otel_exporter_otlp_endpoint: HttpUrl | None = Field(None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    jaeger_agent_host: str | None = Field(None, validation_alias="JAEGER_AGENT_HOST")
    jaeger_agent_port: Port = Field(6831, validation_alias="JAEGER_AGENT_PORT")
    trace_ratio: float = Field(1.0, validation_alias="WAYMESH_TRACE_RATIO", ge=0, le=1)
    prometheus_port: Port = Field(9101, validation_alias="PROMETHEUS_PORT")
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
    ] = Field("INFO", validation_alias="LOG_LEVEL")

    bind_host: str = Field("127.0.0.1", validation_alias="WAYMESH_BIND_HOST", min_length=1)
    # Metrics and health are plain HTTP: no secrets, and kubelets and Prometheus read them.
    admin_host: str | None = Field(None, validation_alias="WAYMESH_ADMIN_HOST", min_length=1)
    # A plain gRPC port that serves grpc.health.v1 alone: kubelets speak no TLS.
    health_port: Port | None = Field(None, validation_alias="WAYMESH_HEALTH_PORT")
    tls_cert_file: OwnFile | None = Field(None, validation_alias="WAYMESH_TLS_CERT_FILE")
    tls_key_file: OwnFile | None = Field(None, validation_alias="WAYMESH_TLS_KEY_FILE")
    tls_ca_file: OwnFile | None = Field(None, validation_alias="WAYMESH_TLS_CA_FILE")
    # Names beyond those that callers.py lists for this service, with commas between them.
    tls_allowed_peers: str | None = Field(
        None,
        validation_alias="WAYMESH_TLS_ALLOWED_PEERS",
        pattern=_PEERS,
        description="names of services or whole SPIFFE IDs, with commas between them",
    )
    allow_plaintext: bool = Field(False, validation_alias="WAYMESH_ALLOW_PLAINTEXT")
    eta_target: Target = Field("127.0.0.1:50051", validation_alias="WAYMESH_ETA_TARGET")
    route_target: Target = Field("127.0.0.1:50052", validation_alias="WAYMESH_ROUTE_TARGET")
    feedback_target: Target = Field("127.0.0.1:50053", validation_alias="WAYMESH_FEEDBACK_TARGET")
    agents_target: Target = Field("127.0.0.1:50054", validation_alias="WAYMESH_AGENTS_TARGET")
    drain_s: float = Field(5.0, validation_alias="WAYMESH_DRAIN_S", ge=0, le=600)
    max_message_mib: int = Field(64, validation_alias="WAYMESH_MAX_MESSAGE_MIB", ge=1, le=1024)
    max_concurrent_rpcs: int | None = Field(
        None, validation_alias="WAYMESH_MAX_CONCURRENT_RPCS", ge=1, le=1_000_000
    )

    @field_validator("tls_cert_file", "tls_key_file", "tls_ca_file")
    @classmethod
    def _own_file(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(str(path).replace("{service}", cls.service))

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        """Whether the files of TLS, where they are named, can be used."""
        if self.tls_cert_file or self.tls_key_file or self.tls_ca_file:
            from services.mesh.tls import settings as tls  # late: `up` on a laptop has none

            tls.check(self)
        return self

    @model_validator(mode="after")
    def _check_kafka(self) -> Self:
        """Whether a cluster, where one is used, can be spoken to with what is given."""
        if self.kafka_enabled:
            from services.mesh import kafka_security  # late: most have no cluster

            kafka_security.check(self)
        return self

    @classmethod
    def variables(cls) -> frozenset[str]:
        """Names of all variables that it reads."""
        return frozenset(_variable(name, info) for name, info in cls.model_fields.items())

    @property
    def admin_bind(self) -> str:
        """Address that metrics and health are served on."""
        return self.admin_host or self.bind_host

    @property
    def allowed_peers(self) -> frozenset[str]:
        """Who may call besides those that the mesh knows of."""
        return frozenset(name.strip() for name in (self.tls_allowed_peers or "").split(",") if name.strip())

    @property
    def kafka_enabled(self) -> bool:
        """Whether events go through Kafka rather than the embedded bus."""
        return self.enable_kafka and self.kafka_bootstrap_servers is not None

    def otlp_endpoint(self) -> tuple[str | None, str | None]:
        """Address of the OTLP collector, or None; and a warning if it stands in for Jaeger's agent."""
        if self.otel_exporter_otlp_endpoint is not None or self.jaeger_agent_host is None:
            return self.otel_exporter_otlp_endpoint, None
        port = _OTLP_HTTP_PORT if self.jaeger_agent_port in _JAEGER_UDP_PORTS else self.jaeger_agent_port
        endpoint = f"http://{self.jaeger_agent_host}:{port}"
        return endpoint, (
            f"JAEGER_AGENT_HOST is read as OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}; "
            "Jaeger's agent protocol is not spoken"
        )

    def admin_port(self, place: int) -> int:
        """Admin port of the service at this place, counted from 0, above the base (PROMETHEUS_PORT)."""
        return self.prometheus_port + place


class GrpcSettings(MeshSettings):
    """Of a service that serves gRPC; a subclass says which variables give its ports, and their defaults."""

    # Place of its admin port above the common base, counted from 0.
    admin_place: ClassVar[int]

    port: Port
    admin: Port | None

    @model_validator(mode="after")
    def _check_plaintext(self) -> Self:
        from services.mesh.tls import settings as tls

        tls.check_serving(self, self.service)
        return self

    @property
    def admin_listen(self) -> int:
        """Port of metrics and health: its own, or its place above the common base."""
        return self.admin_port(self.admin_place) if self.admin is None else self.admin


def load(cls: type[S], **overrides: Any) -> S:
    """The settings from the environment; `overrides` by field name win.

    Raises SettingsError for the first wrong value.
    """
    try:
        return cls(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(cls, error)) from None
    except SourceError as error:
        raise SettingsError(" ".join(str(error).split())) from None


def describe(settings: BaseSettings) -> dict[str, object]:
    """Field name to value, secrets masked, for the start line of a process."""
    return {name: _masked(name, getattr(settings, name)) for name in type(settings).model_fields}


def _masked(name: str, value: object) -> object:
    from services.mesh.redact import MASK, redact_setting  # late: reading what is right takes neither

    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, SecretStr):
        return MASK if value else ""
    return redact_setting(name, str(value))


def _explain(cls: type[BaseSettings], error: ValidationError) -> str:
    details = error.errors(include_url=False)
    first = details[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Disagreement):
        if cause.held is None:
            return f"{cause.variable} is not set: needed is {cause.allowed}"
        return _told(cause.variable, _masked(cause.variable, cause.held), cause.allowed)
    location = str(first["loc"][0]) if first["loc"] else cls.__name__
    field_name, info = _field(cls, location)
    variable = _variable(field_name, info) if info is not None else location
    allowed = _allowed(info) if info is not None else None
    allowed = allowed or first["msg"].removeprefix("Value error, ")
    others = f" (and {len(details) - 1} more wrong)" if len(details) > 1 else ""
    if first["type"] == "missing":
        return f"{variable} is not set: needed is {allowed}{others}"
    secret = info is not None and "SecretStr" in str(info.annotation)
    held = _masked(variable, SecretStr(str(first["input"])) if secret else first["input"])
    return _told(variable, held, f"{allowed}{others}")


def _told(variable: str, held: object, allowed: str) -> str:
    text = " ".join(str(held).split())
    shown = text if len(text) <= 80 else text[:77] + "..."
    return f"{variable} holds '{shown}': allowed is {allowed}"


def _field(cls: type[BaseSettings], location: str) -> tuple[str, FieldInfo | None]:
    for name, info in cls.model_fields.items():
        if location in (name, info.validation_alias):
            return name, info
    return location, None


def _variable(name: str, info: FieldInfo) -> str:
    return info.validation_alias if isinstance(info.validation_alias, str) else name.upper()


def _allowed(info: FieldInfo) -> str | None:
    """What a value may be, in words, from the field's type and bounds."""
    kind, metadata, description = _unwrap(info)
    if description:
        return description
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(kind))
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return ("an integer" if kind is int else "a number") + _bounds(metadata)
    if kind is Path:
        return "a path"
    if kind in (str, SecretStr):
        return "text" + _length(metadata)
    return None


def _length(metadata: list[Any]) -> str:
    least = max((item.min_length for item in metadata if isinstance(item, annotated_types.MinLen)), default=0)
    most = [item.max_length for item in metadata if isinstance(item, annotated_types.MaxLen)]
    words = []
    if least == 1:
        words.append("that is not empty")
    elif least > 1:
        words.append(f"of at least {least} characters")
    if most:
        words.append(f"of at most {min(most)} characters")
    return "".join(f" {word}" for word in words)


def _unwrap(info: FieldInfo) -> tuple[Any, list[Any], str | None]:
    """The bare type under Annotated and `| None`, all constraints met on the way, and the description."""
    annotation, metadata, description = info.annotation, list(info.metadata), info.description
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation, *more = typing.get_args(annotation)
            for item in more:
                if isinstance(item, FieldInfo):
                    metadata += item.metadata
                    description = description or item.description
                else:
                    metadata.append(item)
        elif origin in (types.UnionType, typing.Union):
            annotation = next(arg for arg in typing.get_args(annotation) if arg is not types.NoneType)
        else:
            return annotation, metadata, description


def _bounds(metadata: list[Any]) -> str:
    words = []
    for item in metadata:
        match item:
            case annotated_types.Ge(ge):
                words.append(f"from {ge}")
            case annotated_types.Gt(gt):
                words.append(f"above {gt}")
            case annotated_types.Le(le):
                words.append(f"to {le}")
            case annotated_types.Lt(lt):
                words.append(f"below {lt}")
            case _:
                pass
    return " " + " ".join(words) if words else ""
