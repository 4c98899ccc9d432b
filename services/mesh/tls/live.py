"""What this process shows and trusts now: the files are looked at again and again, and followed."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import grpc
from prometheus_client import CollectorRegistry, Gauge

from services.mesh.settings import MeshSettings
from services.mesh.tls import files
from services.mesh.tls.files import Credentials, Files, FilesError
from services.mesh.tls.settings import files_of

_log = logging.getLogger(__name__)

Listener = Callable[[Credentials], None]

# Three small files, read as often: what a change costs is this wait.
_EVERY_S: Final = 1.0


class LiveTls:
    """`current` is used by every handshake from now on; connections go on with what they began with.

    Files that are missing, half-written or do not fit together change nothing: what was good last stays, and
    the log says so once.
    """

    def __init__(
        self,
        where: Files,
        *,
        registry: CollectorRegistry | None = None,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since 1970. Raises FilesError."""
        self.current = files.read(where)
        self._files = where
        self._every_s = every_s
        self._clock = clock
        self._listeners: list[Listener] = []
        self._bad_looks = 0
        self._end_is_told = False
        if registry is not None:
            expiry = Gauge(
                "waymesh_tls_certificate_expiry_timestamp_seconds",
                "When the certificate that this process shows ends",
                registry=registry,
            )
            expiry.set_function(lambda: self.current.expires)

    @classmethod
    def of(cls, settings: MeshSettings, registry: CollectorRegistry | None = None) -> "LiveTls | None":
        """By the settings; None if they name no files. Raises FilesError."""
        where = files_of(settings)
        return None if where is None else cls(where, registry=registry)

    def on_change(self, listener: Listener) -> None:
        """`listener(credentials)` when there are new ones; it must not block or raise."""
        self._listeners.append(listener)

    def forget(self, listener: Listener) -> None:
        """No more of that."""
        self._listeners.remove(listener)

    async def watch(self) -> None:
        """Looks at the files for as long as it runs."""
        while True:
            await asyncio.sleep(self._every_s)
            self.look()

    def look(self) -> bool:
        """Whether the files hold something new, which is used from now on."""
        self._tell_of_its_end()
        try:
            if files.digest_of(self._files) == self.current.digest:
                fresh = None
            else:
                fresh = files.read(self._files)
                if fresh.id != self.current.id:
                    raise FilesError(
                        files.CERTIFICATE,
                        self._files.certificate,
                        f"a certificate of {self.current.id} until the next start, and it is for {fresh.id}",
                    )
        except FilesError as error:
            self._bad_looks += 1
            # Whoever writes one file after the other may be between two of them: that is no trouble yet.
            if self._bad_looks == 2:
                _log.warning("%s; the certificate that was good last stays, until %s", error, self._until)
            return False
        if self._bad_looks > 1 and fresh is None:
            _log.info("the files of TLS hold again what is in use")
        self._bad_looks = 0
        if fresh is None:
            return False
        self.current = fresh
        _log.info("new connections use the certificate of %s that ends %s", fresh.id, self._until)
        for listener in list(self._listeners):
            listener(fresh)
        return True

    def _tell_of_its_end(self) -> None:
        if self._clock() < self.current.expires:
            self._end_is_told = False
        elif not self._end_is_told:
            self._end_is_told = True
            _log.error(
                "the certificate of %s has ended: peers refuse it until there is another", self.current.id
            )

    @property
    def _until(self) -> str:
        return datetime.fromtimestamp(self.current.expires, UTC).isoformat()

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server, which asks for what is current at each handshake."""
        given = self.current

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            # Called by gRPC's own threads.
            nonlocal given
            now = self.current
            if now is given:
                return None
            given = now
            return _configuration(now)

        # None says that nothing has changed, which the stub's types do not know.
        fetch: Any = renewed
        return grpc.dynamic_ssl_server_credentials(
            _configuration(given), fetch, require_client_authentication=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a channel, which keeps what it is given."""
        now = self.current
        return grpc.ssl_channel_credentials(now.authorities, now.key, now.certificate)


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key, credentials.certificate)], credentials.authorities
    )
