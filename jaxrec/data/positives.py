"""Which items each user has, as bits: a whole row of the step's candidates is looked up in a few reads."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

WORD = 32


def positive_bits(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> np.ndarray:
    """uint32[n_users, ceil(n_items / 32)]: bit ``item % 32`` of word ``item // 32`` is set where the user has the item.

    Args:
        users: int[N]; user 0, who stands for all unknown ones, has nothing.
        items: int[N].
    """
    words = -(-n_items // WORD)
    bits = np.zeros(n_users * words, np.uint32)
    known = users > 0
    users, items = users[known].astype(np.int64), items[known].astype(np.int64)
    place = users * words + items // WORD
    np.bitwise_or.at(bits, place, np.uint32(1) << (items % WORD).astype(np.uint32))
    return bits.reshape(n_users, words)


def size_of_bits(n_users: int, n_items: int) -> int:
    """Bytes of ``positive_bits``."""
    return 4 * n_users * -(-n_items // WORD)


def has_items(bits: Array, users: Array, items: Array) -> Array:
    """bool[C, B]: whether user b has item c.

    Args:
        bits: of ``positive_bits``.
        users: int32[B].
        items: int32[C].
    """
    words = bits[users].T[items // WORD]  # [C, B]: whole rows of words are copied, not single ones
    return (words >> (items % WORD).astype(jnp.uint32)[:, None]) & 1 > 0


def has_each(bits: Array, users: Array, items: Array) -> Array:
    """bool[B, H]: whether user b has ``items[b, h]``; users int32[B], items int32[B, H]."""
    words = jnp.take_along_axis(bits[users], items // WORD, axis=1)
    return (words >> (items % WORD).astype(jnp.uint32)) & 1 > 0


def unpack(bits: Array, n_items: int) -> Array:
    """bool[B, n_items] from uint32[B, words]."""
    wide = (bits[:, :, None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1 > 0
    return wide.reshape(len(bits), -1)[:, :n_items]
