"""What a batch of fixes adds to the counters, tenant by tenant. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from waymesh.eta.v1.eta_pb2 import EtaPrediction

from services.eta.decoding import Decoded
from services.eta.fixes import FLAGS, Bools, Ints, bit
from services.eta.store import Counts
from services.mesh.principal import DEFAULT_TENANT
from services.mesh.tenancy import tenant_of


def counts_of(predictions: Sequence[EtaPrediction]) -> Mapping[str, Counts]:
    """Counts of predictions alone."""
    made = Counter(tenant_of(prediction.order_id) for prediction in predictions)
    return {tenant: Counts(predictions=count) for tenant, count in made.items()}


def counted(
    batch: Decoded, flags: Ints, duplicate: Bools, conflict: Bools, predictions: Sequence[EtaPrediction]
) -> Mapping[str, Counts]:
    """Counts of a batch: `duplicate` and `conflict` are masks over it, `flags` those of fixes in neither."""
    if batch.tenants is None:
        return {DEFAULT_TENANT: _counts(flags, duplicate, conflict, len(predictions))}
    made = Counter(tenant_of(prediction.order_id) for prediction in predictions)
    owner = np.array(batch.tenants)
    owner_of_new = owner[~duplicate & ~conflict]
    return {
        tenant: _counts(
            flags[owner_of_new == tenant], duplicate[owner == tenant], conflict[owner == tenant], made[tenant]
        )
        for tenant in sorted({*batch.tenants, *made})
    }


def _counts(flags: Ints, duplicate: Bools, conflict: Bools, predictions: int) -> Counts:
    return Counts(
        fixes=len(flags),
        duplicates=int(duplicate.sum()),
        conflicts=int(conflict.sum()),
        predictions=predictions,
        flags=[int(np.count_nonzero(flags & bit(flag))) for flag in FLAGS],
    )
