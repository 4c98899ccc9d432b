"""Settings of the gateway, beyond those all services share."""

import os
import re
from typing import Annotated, ClassVar, Final, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from services.mesh.hosts import is_loopback
from services.mesh.settings import Disagreement, MeshSettings, Port, Target
from services.mesh.tls import settings as tls

# `timeout_ms` of a request, at most: longer work than this is no task of an edge.
MAX_TIMEOUT_MS: Final = 60_000


def _fits_a_header(key: SecretStr) -> SecretStr:
    if re.fullmatch(r"[\x21-\x7e]{1,256}", key.get_secret_value()) is None:
        raise ValueError("not visible ASCII")
    return key


def _target_variable(owner: str) -> str:
    return f"WAYMESH_{owner.upper()}_TARGET"


class GatewaySettings(MeshSettings):
    """What the gateway reads from the environment, once."""

    service: ClassVar[str] = "gateway"

    port: Port = Field(8000, validation_alias="PORT")
    # Metrics and what health knows, in plain text; without, the public port has both.
    admin: Port | None = Field(None, validation_alias="WAYMESH_GATEWAY_ADMIN_PORT")
    agent_demo_port: Port = Field(3001, validation_alias="WAYMESH_AGENT_DEMO_PORT")
    agent_custom_port: Port = Field(3002, validation_alias="WAYMESH_AGENT_CUSTOM_PORT")
    # The runtimes ask for no key, so they have a host of their own that bind_host does not open.
    runtime_host: str = Field("127.0.0.1", validation_alias="WAYMESH_RUNTIME_HOST", min_length=1)

    api_key: Annotated[SecretStr, AfterValidator(_fits_a_header)] | None = Field(
        None, validation_alias="FASTAPI_API_KEY", description="1 to 256 visible characters of ASCII"
    )
    rate_per_s: float = Field(200.0, validation_alias="WAYMESH_RATE_PER_S", gt=0, le=1_000_000)
    rate_burst: int = Field(400, validation_alias="WAYMESH_RATE_BURST", ge=1, le=1_000_000)

    max_body_bytes: int = Field(2 << 20, validation_alias="WAYMESH_MAX_BODY_BYTES", ge=1024, le=64 << 20)
    max_head_bytes: int = Field(16 << 10, validation_alias="WAYMESH_MAX_HEAD_BYTES", ge=1024, le=1 << 20)
    max_connections: int = Field(4096, validation_alias="WAYMESH_MAX_CONNECTIONS", ge=64, le=1_000_000)
    timeout_ms: int = Field(10_000, validation_alias="WAYMESH_TIMEOUT_MS", ge=100, le=MAX_TIMEOUT_MS)
    keep_alive_s: float = Field(75.0, validation_alias="WAYMESH_KEEP_ALIVE_S", gt=0, le=3600)
    # Origins of browsers that may call, separated by commas; `*` for any. Empty: none.
    cors_origins: str = Field("", validation_alias="WAYMESH_CORS_ORIGINS")

    @model_validator(mode="after")
    def _check_plaintext(self) -> Self:
        tls.check_serving(self, self.service)
        if not self.allow_plaintext and not is_loopback(self.runtime_host):
            raise Disagreement(
                "WAYMESH_RUNTIME_HOST",
                self.runtime_host,
                "an address of loopback, since runtimes speak no TLS and ask for no key: set it to one, or "
                "WAYMESH_ALLOW_PLAINTEXT=true to serve them in plain text",
            )
        return self

    @property
    def origins(self) -> frozenset[str]:
        """Origins that browsers may call from."""
        return frozenset(origin.strip() for origin in self.cors_origins.split(",") if origin.strip())

    @classmethod
    def variables(cls) -> frozenset[str]:
        """Those of the settings, and the target of each service in the contracts."""
        from services.gateway import rpcs  # late: who has read settings may do without the contracts

        return super().variables() | {_target_variable(rpc.owner) for rpc in rpcs.load().values()}

    def target_of(self, owner: str) -> Target | None:
        """Where the service that owns a task listens; None if nobody has said so."""
        named: str | None = getattr(self, f"{owner}_target", None)
        # A service that came after MeshSettings was written has its variable all the same.
        return named or os.environ.get(_target_variable(owner))
