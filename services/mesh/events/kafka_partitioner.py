"""Which partition a key goes to: as Kafka's own clients choose, so that a key has one place in the cluster.

The hash is murmur2 with the seed of the Java client, of many keys at once: word by word over all of them.
https://kafka.apache.org/documentation/#producerconfigs_partitioner.class
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

_SEED: Final = np.uint32(0x9747B28C)
_MIX: Final = np.uint32(0x5BD1E995)


def partitions_of(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Partition of each key, 0 to `partitions` - 1. ValueError if there is no partition."""
    if partitions < 1:
        raise ValueError("a topic has at least one partition")
    chosen: list[int] = ((murmur2(keys) & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)).tolist()
    return chosen


def murmur2(keys: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """Hash of each key, shape (len(keys),)."""
    number = len(keys)
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=number)
    whole, rest = np.divmod(lengths, 4)
    # One row a key, filled up with zeros: one word more than the longest needs, so that each has a last one.
    width = 4 * (int(whole.max(initial=0)) + 1)
    words = np.array(keys, dtype=f"S{width}").view("<u4").reshape(number, width // 4)
    hashed = _SEED ^ lengths.astype(np.uint32)
    for place in range(width // 4 - 1):
        word = words[:, place] * _MIX
        word ^= word >> np.uint32(24)
        hashed = np.where(place < whole, hashed * _MIX ^ word * _MIX, hashed)
    last = words[np.arange(number), whole]
    hashed = np.where(rest > 0, (hashed ^ last) * _MIX, hashed)
    hashed ^= hashed >> np.uint32(13)
    hashed *= _MIX
    hashed ^= hashed >> np.uint32(15)
    return hashed
