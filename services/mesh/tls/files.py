"""Certificate, key and authorities as they stand in their files."""

import hashlib
import os
import ssl
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.mesh.tls import identity
from services.mesh.tls.identity import SpiffeId

CERTIFICATE: Final = "WAYMESH_TLS_CERT_FILE"
KEY: Final = "WAYMESH_TLS_KEY_FILE"
AUTHORITIES: Final = "WAYMESH_TLS_CA_FILE"

ALPN: Final = "h2"
_MOST_BYTES: Final = 1 << 20
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which `ssl` has no name for.
_NO_CHECK_TIME: Final = 0x200000


class FilesError(Exception):
    """A file is not what it has to be: `variable` names it, `allowed` says what it may be."""

    def __init__(self, variable: str, path: Path, allowed: str) -> None:
        super().__init__(f"{variable} holds '{path}': allowed is {allowed}")
        self.variable = variable
        self.path = path
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Files:
    """Where the three are."""

    certificate: Path
    key: Path
    authorities: Path


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the files held at one moment, all of it fitting together."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    authorities: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    id: SpiffeId
    # When the certificate ends, in seconds since 1970.
    expires: float
    # For HTTP/2, as client.
    client: ssl.SSLContext
    # For HTTP/1.1, as server that asks for a certificate.
    server: ssl.SSLContext


def read(files: Files) -> Credentials:
    """Raises FilesError for the first that is wrong, also if they changed while they were read."""
    held = _contents(files)
    credentials = _credentials(files, *held)
    # `ssl` reads a certificate and its key from files alone, so they may not be those that were read above.
    if _contents(files) != held:
        raise FilesError(CERTIFICATE, files.certificate, "a file that stays as it is while it is read")
    return credentials


def digest_of(files: Files) -> bytes:
    """Of what they hold now. Raises FilesError if one cannot be read."""
    return _digest(*_contents(files))


def _contents(files: Files) -> tuple[bytes, bytes, bytes]:
    return (
        _content(CERTIFICATE, files.certificate),
        _content(KEY, files.key),
        _content(AUTHORITIES, files.authorities),
    )


def _content(variable: str, path: Path) -> bytes:
    try:
        # A pipe would keep the reader waiting.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FilesError(variable, path, "a PEM file, which this is not")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise FilesError(variable, path, f"a PEM file that can be read ({why})") from None
    if len(content) > _MOST_BYTES:
        raise FilesError(variable, path, "a PEM file of at most 1 MiB")
    return content


def _digest(certificate: bytes, key: bytes, authorities: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in (certificate, key, authorities):
        whole.update(len(part).to_bytes(8))
        whole.update(part)
    return whole.digest()


def _credentials(files: Files, certificate: bytes, key: bytes, authorities: bytes) -> Credentials:
    client = _context(ssl.PROTOCOL_TLS_CLIENT, files, authorities)
    client.set_alpn_protocols([ALPN])
    server = _context(ssl.PROTOCOL_TLS_SERVER, files, authorities)
    server.verify_mode = ssl.CERT_REQUIRED
    server.set_alpn_protocols(["http/1.1"])
    # A session that is taken up again shows no certificate: it would outlive what let it in.
    server.options |= ssl.OP_NO_TICKET
    server.num_tickets = 0
    told = _told(files, certificate)
    begins, expires = (ssl.cert_time_to_seconds(str(told[name])) for name in ("notBefore", "notAfter"))
    now = time.time()
    if now >= expires:
        raise FilesError(
            CERTIFICATE,
            files.certificate,
            f"a certificate that is valid now, and this one has ended ({told['notAfter']})",
        )
    if now < begins:
        raise FilesError(
            CERTIFICATE,
            files.certificate,
            f"a certificate that is valid now, and this one begins later ({told['notBefore']})",
        )
    own = identity.of_certificate(told)
    if own is None:
        raise FilesError(
            CERTIFICATE,
            files.certificate,
            "a certificate with one URI name, spiffe://<trust domain>/…/<service>",
        )
    return Credentials(
        certificate=certificate,
        key=key,
        authorities=authorities,
        digest=_digest(certificate, key, authorities),
        id=own,
        expires=float(expires),
        client=client,
        server=server,
    )


def _context(protocol: Any, files: Files, authorities: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Not OpenSSL's file reader, which passes over what it cannot read after the first certificate.
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise FilesError(
            AUTHORITIES, files.authorities, "a PEM file with certificates of authorities, which this is not"
        ) from None
    if not context.cert_store_stats()["x509_ca"]:
        raise FilesError(
            AUTHORITIES, files.authorities, "a PEM file with certificates of authorities; none here is one"
        )
    _load_own(context, files)
    return context


def _load_own(context: ssl.SSLContext, files: Files) -> None:
    asked = False

    def password() -> str:
        # Without this, OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(files.certificate)
    except (ssl.SSLError, OSError):
        raise FilesError(
            CERTIFICATE, files.certificate, "a PEM file with a certificate, which this is not"
        ) from None
    try:
        context.load_cert_chain(files.certificate, files.key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            allowed = f"a PEM file with the key of the certificate in {files.certificate}, which this is not"
        elif asked:
            allowed = "a PEM file with a key that no passphrase locks"
        else:
            allowed = "a PEM file with a private key, which this is not"
        raise FilesError(KEY, files.key, allowed) from None
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise FilesError(KEY, files.key, f"a PEM file that can be read ({why})") from None


def _told(files: Files, certificate: bytes) -> dict[str, Any]:
    """What the certificate says, as a server that trusts it for itself is told when a client shows it.

    `ssl` reads certificates of peers alone, so a handshake is made in memory.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    _load_own(client, files)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME)
    server.load_verify_locations(cadata=certificate.decode("ascii", "replace"))
    _load_own(server, files)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    waiting = list(ends)
    try:
        while waiting:
            for end in list(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLError:
        raise FilesError(
            CERTIFICATE, files.certificate, "a certificate that its holder may show as client and as server"
        ) from None
    return dict(ends[1].getpeercert() or {})
