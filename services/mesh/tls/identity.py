"""Whose a certificate is: the SPIFFE ID in it, `spiffe://<trust domain>/…/<service>`.

The last part of the path names the service. Whatever stands before it, the folder, is that of the mesh: a
certificate from another one is somebody else's, though the same authority may have signed it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

# SPIFFE ID, sections 2.1 to 2.3: no port, no empty, `.` or `..` segments, no escapes.
_ID: Final = re.compile(r"(spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)*/)([A-Za-z0-9._-]+)")
_MOST: Final = 2048


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`folder` ends with a slash: `spiffe://cluster.local/ns/waymesh/sa/` and `eta`."""

    folder: str
    service: str

    def __str__(self) -> str:
        return self.folder + self.service

    @classmethod
    def parse(cls, text: str) -> "SpiffeId | None":
        """None if the text is none with a path."""
        match = _ID.fullmatch(text) if len(text) <= _MOST else None
        if match is None or any(part in (".", "..") for part in text.split("/")):
            return None
        return cls(match[1], match[2])


def of_certificate(certificate: Mapping[str, Any] | None) -> SpiffeId | None:
    """Of what `SSLSocket.getpeercert` gives. X.509-SVIDs have one URI name, no more (section 2)."""
    return of_uris(value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "URI")


def of_uris(uris: Iterable[str]) -> SpiffeId | None:
    """Of all URI names of a certificate."""
    found = list(uris)
    return SpiffeId.parse(found[0]) if len(found) == 1 else None
