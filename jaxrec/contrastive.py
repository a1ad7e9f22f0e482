"""Losses of a row's right item against wrong ones, from cosines; which items are wrong is a mask.

Cosines of candidates stand in float32[C, B], rows of the step along the fast axis.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

CLOSEST = 1e-6  # squared distance below which two vectors are one place: the root has no slope at 0


def triplet(own: Array, others: Array, wrong: Array, margin: float) -> Array:
    """The mean over wrong items of max(0, margin + d(right) - d(wrong)), d the distance on the unit sphere (Schroff et
    al. 2015, "FaceNet", equation 3, with plain instead of squared distances); 0 for a row without a wrong item.

    Args:
        own: float32[B], cosine of the row and its right item.
        others: float32[C, B], of the row and each candidate.
        wrong: bool[C, B], whether the candidate is a wrong item for the row.
        margin: at most 2.

    Returns:
        float32[B].

    >>> cosines, wrong = jnp.array([[0.5], [0.9]]), jnp.array([[True], [False]])
    >>> triplet(jnp.array([0.5]), cosines, wrong, 0.2).round(4).tolist()
    [0.20000000298023224]
    """
    losses = jnp.where(wrong, jax.nn.relu(margin + distance(own) - distance(others)), 0.0)
    return jnp.sum(losses, axis=0) / jnp.maximum(jnp.sum(wrong, axis=0), 1)


def infonce(own: Array, others: Array, wrong: Array) -> Array:
    """Cross-entropy of the right item among itself and the wrong ones (van den Oord et al. 2018, "Representation
    learning with contrastive predictive coding", equation 4).

    Args:
        own: float32[B], the right item's logit: a cosine over the temperature, less the logarithm of how often the item
            is expected among the candidates where that is corrected for (Yi et al. 2019, "Sampling-bias-corrected
            neural modeling for large corpus item recommendations", section 3).
        others: float32[C, B], the candidates'.
        wrong: bool[C, B].

    Returns:
        float32[B], in nats.

    >>> infonce(jnp.array([0.0]), jnp.array([[0.0], [9.0]]), jnp.array([[True], [False]])).round(4).tolist()
    [0.6930999755859375]
    """
    masked = jnp.where(wrong, others, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(masked, axis=0), own))
    return jnp.log(jnp.exp(own - top) + jnp.sum(jnp.exp(masked - top), axis=0)) + top - own


def distance(cosine: Array) -> Array:
    """The Euclidean distance of two unit vectors with this cosine."""
    return jnp.sqrt(jnp.maximum(2.0 - 2.0 * cosine, CLOSEST))
