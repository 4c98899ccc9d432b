"""Records of gps-events as fixes that keep the rules; the others with what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from waymesh.gps.v1.gps_pb2 import GpsEvent

from services.eta import rules
from services.eta.fixes import Fixes, columns_of
from services.eta.identity import hash_contents, hash_ids, identify
from services.eta.seen import Hashes
from services.mesh.arrival import arrived_us
from services.mesh.events import PROTOBUF, PoisonMessage, Record, decode_value
from services.mesh.events.cloud_events import UNKNOWN_VERSION
from services.mesh.events.tenants import tenant_of
from services.mesh.principal import DEFAULT_TENANT, TENANT_KEY
from services.mesh.tenancy import qualify

_GPS_EVENT: Final = GpsEvent.DESCRIPTOR.full_name


@dataclass(frozen=True, slots=True)
class Decoded:
    """The readable fixes of a batch, in order, each with the record it came in. Ids are qualified."""

    records: list[Record]
    fixes: Fixes
    ids: Hashes
    contents: Hashes
    poison: list[tuple[Record, str]]
    tenants: list[str] | None
    """Whose each fix is; None if all are the default tenant's."""


def decode(records: Sequence[Record]) -> Decoded:
    """Read and check a batch."""
    poison: list[tuple[Record, str]] = []
    events, kept = [], []
    parse = GpsEvent.FromString
    of_tenants = False
    for record in records:
        try:
            if TENANT_KEY in record.headers:
                tenant_of(record)
                of_tenants = True
            if (
                record.content_type == PROTOBUF
                and record.type == _GPS_EVENT
                and UNKNOWN_VERSION not in record.headers
            ):
                events.append(parse(record.value))
            else:
                events.append(decode_value(record, GpsEvent))
        except DecodeError:
            poison.append((record, f"not a {_GPS_EVENT} in protobuf"))
        except PoisonMessage as fault:
            poison.append((record, fault.reason))
        else:
            kept.append(record)
    fixes = columns_of(events, [arrived_us(record.time) for record in kept])
    faults = rules.faults(fixes, events)
    if faults:
        bad = {fault.row for fault in faults}
        poison += [(kept[fault.row], f"{fault.field}: {fault.description}") for fault in faults]
        good = [row for row in range(len(events)) if row not in bad]
        fixes = fixes.take(np.array(good, dtype=np.int64))
        events = [events[row] for row in good]
        kept = [kept[row] for row in good]
    event_ids = identify(events)
    owners = [tenant_of(record) for record in kept] if of_tenants else None
    if owners is not None or "/" in "".join(chain(fixes.driver_id, fixes.order_id, event_ids)):
        whose = owners or [DEFAULT_TENANT] * len(kept)
        event_ids = list(map(qualify, whose, event_ids))
        fixes = replace(
            fixes,
            driver_id=list(map(qualify, whose, fixes.driver_id)),
            order_id=list(map(qualify, whose, fixes.order_id)),
        )
    return Decoded(
        records=kept,
        fixes=fixes,
        ids=hash_ids(event_ids),
        contents=hash_contents(events),
        poison=poison,
        tenants=owners,
    )
