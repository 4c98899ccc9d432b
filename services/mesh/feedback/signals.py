"""Signals as they may be stored and sent."""

from typing import Final

from waymesh.feedback.v1.signal_pb2 import Signal

from services.mesh.feedback.outcome import recordable
from services.mesh.redact import MASK, is_secret_name

# Texts of a signal and how long the contract lets them be. Not signal_id, which is its identity.
_LIMITS: Final = {"source": 128, "subject": 256, "message": 1024}
_MAX_NAME: Final = 64
_MAX_VALUE: Final = 512


def without_secrets(signal: Signal) -> Signal:
    """The signal, redacted. Done again, it changes nothing more."""
    clean = Signal()
    clean.CopyFrom(signal)
    for field, limit in _LIMITS.items():
        given = getattr(clean, field)
        text = recordable(given)
        if text != given:
            setattr(clean, field, text[:limit])
    for name, given in signal.labels.items():
        kept, text = recordable(name), MASK if given and is_secret_name(name) else recordable(given)
        if kept != name:
            del clean.labels[name]
        if (kept, text) != (name, given):
            clean.labels[kept[:_MAX_NAME]] = text[:_MAX_VALUE]
    return clean
