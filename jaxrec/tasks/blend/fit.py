"""The weights of a blend, by the exact log loss of validation targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize

from jaxrec.models.blend import Weights
from jaxrec.ops.parallel import in_blocks, joined

STARTS = (1, 2, 3, 4, 6, 10)  # clicks at which sessions get weights of their own, where there are enough of them
ENOUGH = 500  # targets
STRENGTH = 20.0  # of the pull of their weights to those of all sessions, as if of so many targets
ROUNDS = 15  # of L-BFGS, at most: what is left then is below what another sample would change
FEW = 2048  # targets that the weights of all sessions are fitted on, which the others only begin with


class Sample(NamedTuple):
    """Validation targets with all that a blend says of them before its weights."""

    vectors: list[np.ndarray]  # float32[n, D] of each network
    votes: list[Any]  # CSR float64[n, V] of each neighbours' method
    targets: np.ndarray  # int64[n]
    clicks: np.ndarray  # int64[n], of the sessions before them

    def pick(self, which: np.ndarray) -> Sample:
        """Some of them."""
        return Sample([one[which] for one in self.vectors], [one[which] for one in self.votes], self.targets[which],
                      self.clicks[which])  # fmt: skip


@partial(jax.jit, static_argnames="rows")
def partition(
    vectors: Sequence[Array], items: Sequence[Array], temperatures: Array, targets: Array, rows: int
) -> tuple[Array, ...]:
    """Of n queries float32[n], the logarithm of the sum of exp(sum of temperature times score) over the catalogue;
    float32[n, J], the mean score of each network under that softmax; and float32[n, J] scores of the targets."""

    def one(block: Any) -> tuple[Array, Array, Array]:
        queries, target = block
        scores = [jnp.matmul(query, table.T, precision="highest") for query, table in zip(queries, items, strict=True)]
        whole = sum(scale * score for scale, score in zip(temperatures, scores, strict=True))
        total = jax.nn.logsumexp(whole, axis=1)
        share = jnp.exp(whole - total[:, None])
        means = jnp.stack([jnp.sum(share * score, axis=1) for score in scores], axis=1)
        own = jnp.stack([jnp.take_along_axis(score, target[:, None], 1)[:, 0] for score in scores], axis=1)
        return total, means, own

    return joined(jax.lax.map(one, in_blocks((list(vectors), targets), rows)), len(targets))


def log_loss(theta: np.ndarray, sample: Sample, items: Sequence[Array], rows: int) -> tuple[float, np.ndarray]:
    """The mean of -log p(target), and its derivative by ``theta``: logarithms of J temperatures and M exponents, then M
    shares of neighbours, as logarithms of what they are beside the networks'. See ``jaxrec.models.blend``."""
    networks, methods, n = len(sample.vectors), len(sample.votes), len(sample.targets)
    scales, powers, beside = np.exp(theta[:networks]), np.exp(theta[networks:][:methods]), theta[networks + methods :]
    total, means, own = (np.asarray(one, np.float64) for one in partition(
        sample.vectors, items, jnp.asarray(scales, jnp.float32), jnp.asarray(sample.targets), rows))  # fmt: skip
    chance, slope_of_power = np.zeros((n, 1 + methods)), np.zeros((n, methods))
    chance[:, 0] = np.exp(np.minimum(own @ scales - total, 0.0))
    weight = np.tile(np.exp(np.append(0.0, beside)), (n, 1))
    for m, votes in enumerate(sample.votes):
        weight[np.diff(votes.indptr) == 0, m + 1] = 0.0
        chance[:, m + 1], slope_of_power[:, m] = _of_votes(votes, powers[m], sample.targets)
    weight /= weight.sum(axis=1, keepdims=True)
    part = weight * chance
    whole = np.maximum(part.sum(axis=1), 1e-300)
    part /= whole[:, None]
    slope = np.concatenate([
        scales * np.mean(part[:, :1] * (own - means), axis=0),
        powers * np.mean(part[:, 1:] * slope_of_power, axis=0),
        np.mean(part[:, 1:] - weight[:, 1:], axis=0),
    ])  # fmt: skip
    return -float(np.mean(np.log(whole))), -slope


def _of_votes(votes: Any, power: float, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64[n], the probability of each target by votes to a power; and the derivative of its logarithm by it."""
    n, row = votes.shape[0], np.repeat(np.arange(votes.shape[0]), np.diff(votes.indptr))
    logs = np.log(votes.data)
    largest = np.full(n, -np.inf)
    np.maximum.at(largest, row, logs)
    mass = np.exp(power * (logs - largest[row]))
    total = np.maximum(np.bincount(row, mass, n), 1e-300)
    mean = np.bincount(row, mass * logs, n) / total
    own = votes.indices == targets[row]
    chance, slope = np.zeros((2, n))
    chance[row[own]] = mass[own] / total[row[own]]
    slope[row[own]] = logs[own] - mean[row[own]]
    return chance, slope


def fit_weights(sample: Sample, items: Sequence[Array], rows: int) -> tuple[tuple[Weights, ...], float]:
    """The weights by the number of clicks, and the log loss that they have on the sample; first those of all sessions,
    from which those of each part begin and to which they are pulled."""
    networks, methods = len(sample.vectors), len(sample.votes)
    begin = np.concatenate([np.full(networks, -np.log(networks)), np.zeros(methods), np.full(methods, -1.0)])
    every = _minimised(
        begin, sample.pick(np.arange(0, len(sample.targets), -(-len(sample.targets) // FEW))), items, rows
    )
    starts, weights, losses = _starts(sample.clicks), list[Weights](), list[float]()
    for place, start in enumerate(starts):
        end = starts[place + 1] if place + 1 < len(starts) else np.inf
        part = sample.pick(np.flatnonzero((sample.clicks >= start) & (sample.clicks < end)))
        theta = _minimised(every, part, items, rows, STRENGTH)
        losses.append(log_loss(theta, part, items, rows)[0] * len(part.targets))
        weights.append(_weights(start, theta, networks, methods))
    return tuple(weights), sum(losses) / len(sample.targets)


def _starts(clicks: np.ndarray) -> list[int]:
    """The clicks at which a part begins, from 1, so that each has enough targets."""
    starts = [1]
    for start in STARTS[1:]:
        here, after = np.count_nonzero((clicks >= starts[-1]) & (clicks < start)), np.count_nonzero(clicks >= start)
        if min(here, after) >= ENOUGH:
            starts.append(start)
    return starts


def _minimised(
    begin: np.ndarray, sample: Sample, items: Sequence[Array], rows: int, strength: float = 0.0
) -> np.ndarray:
    """The weights with the least log loss, and a pull to those that they begin with."""
    pull = strength / len(sample.targets)

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = log_loss(theta, sample, items, rows)
        away = theta - begin
        return loss + 0.5 * pull * float(away @ away), slope + pull * away

    bounds = [(-7.0, 4.0)] * len(begin)  # a share of a thousandth says nothing any more, and its exponent is free
    found = minimize(value, begin, jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"maxiter": ROUNDS, "ftol": 1e-5})  # fmt: skip
    return np.asarray(found.x)


def _weights(start: int, theta: np.ndarray, networks: int, methods: int) -> Weights:
    """The numbers of a part, to four digits."""
    shares = np.exp(np.append(0.0, theta[networks + methods :]))
    shares = np.round(shares / shares.sum(), 4)
    shares[0] = 1.0 - shares[1:].sum()
    scales, powers = (np.exp(theta[:networks]), np.exp(theta[networks:][:methods]))
    return Weights(clicks=start, temperatures=_rounded(scales), exponents=_rounded(powers), shares=_rounded(shares))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)
