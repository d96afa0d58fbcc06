"""Masks are uniform in the whole ring and come from 32-byte seeds that both ends can expand.

A seed is an AES-256 key; its mask is the counter-mode key stream from counter zero, read as
little-endian uint64. A seed is used for one mask only. The randomness is an argument, so that
tests can make a run repeatable; `secrets.token_bytes` is the only source in use.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from algorithms.common.encoding import Vector

SEED_BYTES = 32

Randomness = Callable[[int], bytes]
Expand = Callable[[bytes, int], Vector]

_COUNTER_ZERO = bytes(16)


def expand(seed: bytes, length: int) -> Vector:
    """The mask of a seed: `length` uniform uint64.

    Raises:
        ValueError: the seed does not have 32 bytes.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes")
    stream = Cipher(algorithms.AES(seed), modes.CTR(_COUNTER_ZERO)).encryptor()
    mask = np.zeros(length, dtype="<u8")
    octets = mask.view(np.uint8).data  # zeros in, the key stream out, in place
    stream.update_into(octets, octets)
    return mask.astype(np.uint64, copy=False)
