"""A pseudo-random permutation that is computed, not stored."""

import numpy as np

_ROUNDS = 6


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: each input bit changes each output bit with probability about one half."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_u64(*key: int) -> int:
    """A number in [0, 2^64) that is a pure function of the integers in `key`."""
    state = np.zeros(1, np.uint64)
    for part in key:
        state = mix(state + np.uint64(part) + np.uint64(0x9E3779B97F4A7C15))
    return int(state[0])


def permute(indices: np.ndarray, n: int, *key: int) -> np.ndarray:
    """Images of `indices` under a permutation of range(n) that `key` selects -> int64, same shape.

    A balanced Feistel network over the smallest even number of bits that holds n; values outside range(n) are sent
    through again until they fall inside (cycle walking). Time per index and memory do not depend on n.
    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains".
    """
    half_bits = max((n - 1).bit_length() + 1, 2) // 2
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    round_keys = [np.uint64(random_u64(*key, n, round_)) for round_ in range(_ROUNDS)]

    def encrypt(x: np.ndarray) -> np.ndarray:
        left, right = x >> shift, x & mask
        for round_key in round_keys:
            left, right = right, left ^ (mix(right + round_key) & mask)
        return left << shift | right

    out = encrypt(indices.astype(np.uint64))
    while (outside := out >= np.uint64(n)).any():
        out[outside] = encrypt(out[outside])
    return out.astype(np.int64)
