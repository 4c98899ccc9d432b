"""Certificates of a mesh: an authority, what it signs, and the files that services read."""

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOLDER = "spiffe://waymesh.test/ns/waymesh/sa/"
HERE = ("localhost", "127.0.0.1")
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Paths:
    """Files as cert-manager names them, and the variables that name them."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def authorities(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def variables(self) -> dict[str, str]:
        return {
            "WAYMESH_TLS_CERT_FILE": str(self.certificate),
            "WAYMESH_TLS_KEY_FILE": str(self.key),
            "WAYMESH_TLS_CA_FILE": str(self.authorities),
        }


@dataclass(frozen=True)
class Certificate:
    """One certificate with its key, and the authorities that its holder trusts; all PEM."""

    certificate: bytes
    key: bytes
    authorities: bytes

    def write(self, folder: Path) -> Paths:
        """Plain files in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = Paths(folder)
        paths.certificate.write_bytes(self.certificate)
        paths.key.write_bytes(self.key)
        paths.authorities.write_bytes(self.authorities)
        return paths

    def mount(self, folder: Path) -> Paths:
        """As Kubernetes mounts and later changes a Secret: all files change by the swap of one link."""
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("..version-*")))
        version = folder / f"..version-{number}"
        self.write(version)
        fresh = folder / "..data_tmp"
        fresh.symlink_to(version.name)
        os.replace(fresh, folder / "..data")
        paths = Paths(folder)
        for path in (paths.certificate, paths.key, paths.authorities):
            if not path.is_symlink():
                path.symlink_to(Path("..data") / path.name)
        return paths


class Authority:
    """Signs certificates. `trusted` is its own, PEM."""

    def __init__(self, name: str = "mesh") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {id(self):x}")])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 10 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @cached_property
    def trusted(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        service: str,
        *,
        hosts: tuple[str, ...] = HERE,
        uris: tuple[str, ...] | None = None,
        begins: timedelta = -_DAY,
        ends: timedelta = _DAY,
        trusted: bytes | None = None,
        self_signed: bool = False,
        client_only: bool = False,
    ) -> Certificate:
        """One for a service that listens as `hosts`; `begins` and `ends` count from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri) for uri in (uris if uris is not None else (FOLDER + service,))
        ]
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        now = datetime.now(UTC)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if not client_only:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        return Certificate(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            self.trusted if trusted is None else trusted,
        )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
