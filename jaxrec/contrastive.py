"""Losses of a row's right item against wrong ones, from cosines; which items are wrong is a mask.

Cosines of candidates stand in float32[C, B], rows of the step along the fast axis.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

Negatives = tuple[Array, Array]

CLOSEST = 1e-6  # squared distance below which two vectors are one place: the root has no slope at 0


def triplet(own: Array, others: Array, wrong: Array, margin: float, *more: Negatives) -> Array:
    """The mean over wrong items of max(0, margin + d(right) - d(wrong)), d the distance on the unit sphere (Schroff et
    al. 2015, "FaceNet", equation 3, with plain instead of squared distances); 0 for a row without a wrong item.

    Args:
        own: float32[B], cosine of the row and its right item.
        others: float32[C, B], of the row and each candidate.
        wrong: bool[C, B], whether the candidate is a wrong item for the row.
        margin: at most 2.
        more: further candidates, each as ``others`` and ``wrong``.

    Returns:
        float32[B].

    >>> cosines, wrong = jnp.array([[0.5], [0.9]]), jnp.array([[True], [False]])
    >>> f"{triplet(jnp.array([0.5]), cosines, wrong, 0.2)[0]:.4f}"
    '0.2000'
    """
    near = margin + distance(own)
    total, count = jnp.zeros_like(own), jnp.zeros_like(own)
    for cosines, mask in ((others, wrong), *more):
        total += jnp.sum(jnp.where(mask, jax.nn.relu(near - distance(cosines)), 0.0), axis=0)
        count += jnp.sum(mask, axis=0, dtype=jnp.float32)
    return total / jnp.maximum(count, 1)


def infonce(own: Array, others: Array, wrong: Array, *more: Negatives) -> Array:
    """Cross-entropy of the right item among itself and the wrong ones (van den Oord et al. 2018, "Representation
    learning with contrastive predictive coding", equation 4).

    Args:
        own: float32[B], the right item's logit: a cosine over the temperature, less the logarithm of how often the item
            is expected among the candidates where that is corrected for (Yi et al. 2019, "Sampling-bias-corrected
            neural modeling for large corpus item recommendations", section 3).
        others: float32[C, B], the candidates'.
        wrong: bool[C, B].
        more: further candidates, each as ``others`` and ``wrong``.

    Returns:
        float32[B], in nats.

    >>> f"{infonce(jnp.array([0.0]), jnp.array([[0.0], [9.0]]), jnp.array([[True], [False]]))[0]:.4f}"
    '0.6931'
    """
    parts = [jnp.where(mask, logits, -jnp.inf) for logits, mask in ((others, wrong), *more)]
    top = own
    for part in parts:
        top = jnp.maximum(top, jnp.max(part, axis=0, initial=-jnp.inf))
    top = jax.lax.stop_gradient(top)
    total = jnp.exp(own - top)
    for part in parts:
        total += jnp.sum(jnp.exp(part - top), axis=0)
    return jnp.log(total) + top - own


def distance(cosine: Array) -> Array:
    """The Euclidean distance of two unit vectors with this cosine."""
    return jnp.sqrt(jnp.maximum(2.0 - 2.0 * cosine, CLOSEST))
