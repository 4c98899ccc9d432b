"""How clients come in: encrypted or not, with a login or without; and the certificates for it."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.kafka.jars import KafkaUnavailableError

SCRAM: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_MECHANISMS: Final = ("PLAIN", *SCRAM)
_LOGIN_MODULE: Final = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class Security:
    """Of the listener for clients; among themselves the nodes speak plainly on loopback."""

    protocol: str = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; with SASL all of PLAIN and SCRAM-SHA-256 and -512."""
    user: str = "tests"
    password: str = "a-password-of-the-tests"
    client_certificate: bool = False
    """Whether a client has to show a certificate of the cluster's authority."""

    @property
    def encrypted(self) -> bool:
        """Whether the nodes need certificates."""
        return self.protocol in ("SSL", "SASL_SSL")

    def settings(self, certificates: "Certificates | None") -> Mapping[str, str]:
        """Lines of the nodes' configuration."""
        found: dict[str, str] = {}
        if certificates is not None:
            found |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(certificates.broker),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(certificates.authority),
                "listener.name.client.ssl.client.auth": "required" if self.client_certificate else "none",
            }
        if self.protocol.startswith("SASL_"):
            found["listener.name.client.sasl.enabled.mechanisms"] = ",".join(_MECHANISMS)
            plain = f'{_LOGIN_MODULE}.plain.PlainLoginModule required user_{self.user}="{self.password}";'
            found["listener.name.client.plain.sasl.jaas.config"] = plain
            for mechanism in SCRAM:
                name = f"listener.name.client.{mechanism.lower()}.sasl.jaas.config"
                found[name] = f"{_LOGIN_MODULE}.scram.ScramLoginModule required;"
        return found

    def format_arguments(self) -> list[str]:
        """What the first format of a node has to know: SCRAM logins lie in the cluster's metadata."""
        if not self.protocol.startswith("SASL_"):
            return []
        logins = (f"{one}=[name={self.user},password={self.password}]" for one in SCRAM)
        return [word for login in logins for word in ("--add-scram", login)]


class Certificates:
    """An authority made for one cluster, and what it has signed for 127.0.0.1 and localhost.

    `broker` and `client` are PEM files with key and chain; `stranger` is an authority nobody trusts.
    KafkaUnavailableError without openssl.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise KafkaUnavailableError("openssl, which makes the certificates, is not installed")
        self._folder = folder
        self.authority = self._authority("authority")
        self.stranger = self._authority("stranger")
        self.broker = self._signed("broker")
        self.client = self._signed("client")

    def _authority(self, name: str) -> Path:
        certificate = self._folder / f"{name}.pem"
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}",
            "-keyout", str(self._folder / f"{name}.key"), "-out", str(certificate),
        )  # fmt: skip
        return certificate

    def _signed(self, name: str) -> Path:
        key, request, certificate, extensions = (
            self._folder / f"{name}.{suffix}" for suffix in ("key", "csr", "crt", "ext")
        )
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", str(request), "-days", "30", "-extfile", str(extensions),
            "-CA", str(self.authority), "-CAkey", str(self.authority.with_suffix(".key")),
            "-CAcreateserial", "-out", str(certificate),
        )  # fmt: skip
        both = self._folder / f"{name}.pem"
        both.write_text(key.read_text() + certificate.read_text() + self.authority.read_text())
        both.chmod(0o600)
        return both


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
