"""Who is at the other end of a connection, by the certificate it has shown, and what it may do."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_PEER_NOT_ALLOWED

from services.mesh.errors import MeshError, PermissionDenied, Unauthenticated
from services.mesh.tls import callers, identity
from services.mesh.tls.identity import SpiffeId

_MOST_KNOWN: Final = 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """`name` is that of a service of the mesh, a whole SPIFFE ID, or empty if the certificate has none."""

    name: str
    # May call this server at all.
    allowed: bool
    # Is believed when it says for which tenant, key and caller it asks.
    speaks_for_others: bool
    # Is a service of the mesh, and may act for all tenants at once.
    is_service: bool

    def refusal(self) -> MeshError | None:
        """Why it may not call; None if it may."""
        if self.allowed:
            return None
        if not self.name:
            return Unauthenticated(
                "the certificate names no service",
                reason=ERROR_REASON_PEER_NOT_ALLOWED,
                metadata={"peer": ""},
            )
        return PermissionDenied(
            f"{self.name} does not call this service",
            reason=ERROR_REASON_PEER_NOT_ALLOWED,
            metadata={"peer": self.name},
        )


# None where connections are plain: nothing is known of anybody.
_current: ContextVar[Peer | None] = ContextVar("waymesh_peer", default=None)
current = _current.get
set_current = _current.set


class Peers:
    """Who may call the service of the certificate `own`; `further` are names, or whole SPIFFE IDs."""

    def __init__(self, own: SpiffeId, further: Iterable[str] = ()) -> None:
        self._folder = own.folder
        self._allowed = callers.callers_of(own.service) | frozenset(further)
        self._known: dict[str, Peer] = {}

    def of_call(self, auth_context: Mapping[str, Iterable[bytes]]) -> Peer:
        """Of what gRPC's servicer context knows of the connection."""
        return self._of([uri.decode("utf-8", "replace") for uri in auth_context.get("peer_uri", ())])

    def of_certificate(self, certificate: Mapping[str, Any] | None) -> Peer:
        """Of what `getpeercert` of an SSL object gives."""
        names = (certificate or {}).get("subjectAltName", ())
        return self._of([value for kind, value in names if kind == "URI"])

    def _of(self, uris: list[str]) -> Peer:
        key = " ".join(uris)
        peer = self._known.get(key)
        if peer is None:
            peer = self._made(identity.of_uris(uris))
            if len(self._known) < _MOST_KNOWN:
                self._known[key] = peer
        return peer

    def _made(self, found: SpiffeId | None) -> Peer:
        if found is None:
            return Peer("", allowed=False, speaks_for_others=False, is_service=False)
        if found.folder != self._folder:
            # Somebody else's eta is no eta of ours.
            whole = str(found)
            return Peer(whole, allowed=whole in self._allowed, speaks_for_others=False, is_service=False)
        name = found.service
        return Peer(
            name,
            allowed=name in self._allowed or str(found) in self._allowed,
            speaks_for_others=name in callers.SPEAKS_FOR_OTHERS,
            is_service=name in callers.SERVICES,
        )
