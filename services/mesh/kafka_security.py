"""How a Kafka cluster is spoken to: encrypted or not, with a login or without, as KAFKA_* say.

Read twice: when the settings are, so that what cannot work stops the start, and when the clients are made.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

if TYPE_CHECKING:
    from services.mesh.settings import MeshSettings

_ENCRYPTED: Final = ("SSL", "SASL_SSL")
_LOGIN: Final = ("SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS: Final = "one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"


def check(settings: "MeshSettings") -> None:
    """Raises Disagreement for the first variable that another one or the file it names rules out."""
    _check_login(settings)
    _check_encryption(settings)
    ssl_context(settings)


def ssl_context(settings: "MeshSettings") -> ssl.SSLContext | None:
    """What encrypts, None if nothing does. The broker's certificate has to be for the name it is called by.

    Disagreement if a file cannot be read, is no PEM, or key and certificate do not go together.
    """
    if settings.kafka_security_protocol not in _ENCRYPTED:
        return None
    context = ssl.create_default_context()
    authority = settings.kafka_ssl_cafile
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _readable("KAFKA_SSL_CAFILE", authority)
        try:
            context.load_verify_locations(authority)
        except (ssl.SSLError, ValueError):
            raise _disagreement(
                "KAFKA_SSL_CAFILE", authority, "a PEM file with certificates, which this one is not"
            ) from None
    if settings.kafka_ssl_certfile is not None:
        _load_own(settings, context, settings.kafka_ssl_certfile)
    return context


def login(settings: "MeshSettings") -> Mapping[str, Any]:
    """Arguments of aiokafka's clients that log in; empty if nobody does."""
    if settings.kafka_security_protocol not in _LOGIN:
        return {}
    return {
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": _secret(settings.kafka_sasl_password),
    }


def _check_login(settings: "MeshSettings") -> None:
    given: dict[str, Any] = {
        "KAFKA_SASL_MECHANISM": settings.kafka_sasl_mechanism,
        "KAFKA_SASL_USERNAME": settings.kafka_sasl_username,
        "KAFKA_SASL_PASSWORD": settings.kafka_sasl_password,
    }
    protocol = settings.kafka_security_protocol
    for variable, value in given.items():
        if protocol not in _LOGIN and value is not None:
            raise _disagreement(
                variable,
                value,
                _only("SASL_SSL or SASL_PLAINTEXT", protocol),
            )
        if protocol in _LOGIN and value is None:
            what = f"{_MECHANISMS}," if variable == "KAFKA_SASL_MECHANISM" else "that of the login,"
            raise _disagreement(variable, None, f"{what} since KAFKA_SECURITY_PROTOCOL is {protocol}")


def _check_encryption(settings: "MeshSettings") -> None:
    given: dict[str, Any] = {
        "KAFKA_SSL_CAFILE": settings.kafka_ssl_cafile,
        "KAFKA_SSL_CERTFILE": settings.kafka_ssl_certfile,
        "KAFKA_SSL_KEYFILE": settings.kafka_ssl_keyfile,
        "KAFKA_SSL_KEY_PASSWORD": settings.kafka_ssl_key_password,
    }
    protocol = settings.kafka_security_protocol
    if protocol not in _ENCRYPTED:
        for variable, value in given.items():
            if value is not None:
                raise _disagreement(
                    variable,
                    value,
                    _only("SSL or SASL_SSL", protocol),
                )
    elif settings.kafka_ssl_certfile is None:
        for variable in ("KAFKA_SSL_KEYFILE", "KAFKA_SSL_KEY_PASSWORD"):
            if given[variable] is not None:
                raise _disagreement(
                    variable,
                    given[variable],
                    "a value only with the certificate in KAFKA_SSL_CERTFILE: set that, or remove this",
                )


def _only(needed: str, protocol: str) -> str:
    return (
        f"a value only while KAFKA_SECURITY_PROTOCOL is {needed} (it is {protocol}): set that, or remove this"
    )


def _load_own(settings: "MeshSettings", context: ssl.SSLContext, certificate: Path) -> None:
    key = settings.kafka_ssl_keyfile
    _readable("KAFKA_SSL_CERTFILE", certificate)
    if key is not None:
        _readable("KAFKA_SSL_KEYFILE", key)
    holder, place = ("KAFKA_SSL_CERTFILE", certificate) if key is None else ("KAFKA_SSL_KEYFILE", key)
    asked = False

    def password() -> str:
        # Without one, OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return _secret(settings.kafka_ssl_key_password) or ""

    try:
        _has_certificate(certificate)
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            allowed = f"a PEM file with the key of the certificate in {certificate}, which this one is not"
            raise _disagreement(holder, place, allowed) from None
        if asked:
            raise _disagreement(
                "KAFKA_SSL_KEY_PASSWORD",
                settings.kafka_ssl_key_password,
                f"the password of the key in {place}",
            ) from None
        allowed = "a PEM file with a private key, which this one is not"
        if key is None:
            allowed = "a PEM file with certificate and private key, unless KAFKA_SSL_KEYFILE names the key's"
        raise _disagreement(holder, place, allowed) from None
    except ValueError:
        raise _disagreement(
            "KAFKA_SSL_CERTFILE", certificate, "a PEM file with a certificate, which this one is not"
        ) from None


def _has_certificate(path: Path) -> None:
    """Raises ValueError if a PEM file holds no certificate."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError from error


def _readable(variable: str, path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise _disagreement(variable, path, f"a PEM file that can be read ({why})") from None


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _disagreement(variable: str, held: object, allowed: str) -> Exception:
    from services.mesh.settings import Disagreement  # it reads this module

    return Disagreement(variable, held, allowed)
