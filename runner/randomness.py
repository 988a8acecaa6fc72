"""Random numbers named by what they are for, so that nobody has to draw them in any order.

Every number is a function of (seed, epoch, sample id, view, place): it does not depend on the batch a
sample came in, on the number of workers or ranks, on the device, or on what was drawn before. The
generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), with

    key      the 64 bits of the seed
    counter  id (low word), id (high word), epoch, view * 2^16 + block

where each block gives four 32-bit words. All of it is integer arithmetic in NumPy on the host.

Shapes: B samples, K numbers for each.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
"""32-bit words, held in 64 bits so that a product keeps its high half."""

LOW_WORD = np.uint64(0xFFFFFFFF)
HIGH_WORD = np.uint64(32)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ROUNDS = 10


def draw_uniforms(seed: int, epoch: int, ids_B: NDArray[np.int64], view: int, count: int) -> NDArray[np.float64]:
    """(B, count) numbers in the open interval (0, 1), each made of 32 random bits.

    `seed` < 2^64, `epoch` < 2^32, `view` < 2^16. A greater `count` adds columns and keeps the earlier ones.
    """
    assert 0 <= seed < 2**64 and 0 <= epoch < 2**32 and 0 <= view < 2**16, (seed, epoch, view)
    blocks = -(-count // 4)
    ids_B1 = ids_B.astype(np.uint64)[:, None]
    shape = (len(ids_B), blocks)
    counter = (
        np.broadcast_to(ids_B1 & LOW_WORD, shape),
        np.broadcast_to(ids_B1 >> HIGH_WORD, shape),
        np.full(shape, epoch, np.uint64),
        np.broadcast_to((view << 16) + np.arange(blocks, dtype=np.uint64), shape),
    )
    words_BK = np.stack(philox(counter, seed), axis=-1).reshape(len(ids_B), 4 * blocks)
    return (words_BK[:, :count].astype(np.float64) + 0.5) * 2.0**-32


def philox(counter: tuple[Words, Words, Words, Words], key: int) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four arrays of 32-bit words scrambled under a 64-bit key, elementwise."""
    a, b, c, d = counter
    key_low, key_high = np.uint64(key) & LOW_WORD, np.uint64(key) >> HIGH_WORD
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = (
            (second >> HIGH_WORD) ^ b ^ key_low,
            second & LOW_WORD,
            (first >> HIGH_WORD) ^ d ^ key_high,
            first & LOW_WORD,
        )
        key_low, key_high = (key_low + KEY_STEPS[0]) & LOW_WORD, (key_high + KEY_STEPS[1]) & LOW_WORD
    return a, b, c, d
