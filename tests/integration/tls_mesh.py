"""Certificates of a whole mesh of processes: put where they are read, and seen to be in use."""

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.certificates import Authority, Certificate, Paths
from tests.faults.up_rig import Up

NAMES = ("eta", "route", "feedback", "agents", "gateway", "operator", "edge")


def variables(folder: Path) -> dict[str, str]:
    """One set for all services of a mesh."""
    return Paths(folder / "{service}").variables


def put(authority: Authority, folder: Path, trusted: bytes) -> dict[str, Certificate]:
    """Changes all certificates as Kubernetes does, each by the swap of one link."""
    made = {name: authority.issue(name, trusted=trusted) for name in NAMES}
    for name, certificate in made.items():
        certificate.mount(folder / name)
    return made


def succession(old: Authority, new: Authority) -> Iterator[tuple[Authority, bytes]]:
    """The steps from one authority to the next: trust both, show the new one's, trust it alone."""
    both = old.trusted + new.trusted
    yield old, both
    yield new, both
    yield new, new.trusted


def client_context(folder: Path, name: str) -> ssl.SSLContext:
    """Of a client that shows what the files hold now."""
    paths = Paths(folder / name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(paths.authorities)
    context.load_cert_chain(paths.certificate, paths.key)
    return context


async def until_shown(mesh: Up, folder: Path, certificates: Mapping[str, Certificate]) -> None:
    """Until every service shows its new certificate to who connects."""
    for name, service in mesh.state.services.items():
        expected = ssl.PEM_cert_to_DER_cert(certificates[name].certificate.decode())
        while await _shown_by(service.port, folder) != expected:
            await asyncio.sleep(0.05)


async def _shown_by(port: int, folder: Path) -> bytes:
    context = client_context(folder, "operator")
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
    finally:
        writer.close()
