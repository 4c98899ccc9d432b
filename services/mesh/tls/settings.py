"""What the variables of TLS may hold, and that nothing is plain off loopback unless told so."""

from typing import TYPE_CHECKING

from services.mesh.hosts import is_loopback, is_target_here
from services.mesh.tls import files
from services.mesh.tls.files import Files, FilesError

if TYPE_CHECKING:
    from services.mesh.settings import MeshSettings

_TLS = "WAYMESH_TLS_CERT_FILE, WAYMESH_TLS_KEY_FILE and WAYMESH_TLS_CA_FILE"
_PLAIN = "WAYMESH_ALLOW_PLAINTEXT=true"


def files_of(settings: "MeshSettings") -> Files | None:
    """The three files, None if none is set. Raises Disagreement if one or two are."""
    paths = {
        files.CERTIFICATE: settings.tls_cert_file,
        files.KEY: settings.tls_key_file,
        files.AUTHORITIES: settings.tls_ca_file,
    }
    given = [variable for variable, path in paths.items() if path is not None]
    if not given:
        return None
    for variable, path in paths.items():
        if path is None:
            raise _disagreement(
                variable, None, f"a PEM file, since {given[0]} is set (all three or none of {_TLS})"
            )
    certificate, key, authorities = (path for path in paths.values() if path is not None)
    return Files(certificate, key, authorities)


def check(settings: "MeshSettings") -> None:
    """Raises Disagreement for files that cannot be used."""
    found = files_of(settings)
    if found is not None:
        try:
            files.read(found)
        except FilesError as error:
            raise _disagreement(error.variable, error.path, error.allowed) from None


def check_serving(settings: "MeshSettings", service: str) -> None:
    """Raises Disagreement if a service would be somebody else, or plain where others can listen."""
    found = files_of(settings)
    if found is not None:
        try:
            own = files.read(found).id
        except FilesError as error:
            raise _disagreement(error.variable, error.path, error.allowed) from None
        if own.service != service:
            raise _disagreement(
                files.CERTIFICATE,
                found.certificate,
                f"a certificate of {service}, and this one is for {own} "
                "({service} in a path stands for the name)",
            )
        return
    if settings.allow_plaintext:
        return
    if not is_loopback(settings.bind_host):
        raise _disagreement(
            "WAYMESH_BIND_HOST",
            settings.bind_host,
            f"an address of loopback without TLS: set {_TLS}, or {_PLAIN} to serve in plain text",
        )
    for name in type(settings).model_fields:
        target = getattr(settings, name)
        if name.endswith("_target") and not is_target_here(target):
            variable = str(type(settings).model_fields[name].validation_alias)
            raise _disagreement(
                variable,
                target,
                f"an address of loopback without TLS: set {_TLS}, or {_PLAIN} to call in plain text",
            )


def _disagreement(variable: str, held: object, allowed: str) -> Exception:
    from services.mesh.settings import Disagreement  # it reads this module

    return Disagreement(variable, held, allowed)
