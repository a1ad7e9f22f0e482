"""A blend of trained session models and nearest neighbours, which ``python -m jaxrec.blend`` makes.

The networks' scores s_j of an item, each times a temperature, make one softmax over the catalogue; what neighbours say
is a distribution of its own; and the blend is their mixture:

    p(i) = w_0 softmax(sum over networks j of a_j s_j)(i) + sum over neighbours m of w_m q_m(i)
    q_m(i) = v_m(i)^g_m / sum over items of v_m^g_m

with the votes v_m of a method, none of which it may have: then its share goes to the others, as theirs are. All numbers
depend on how many clicks the session has. Products of experts and mixtures of experts: Hinton 2002, "Training products
of experts by minimizing contrastive divergence", section 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, LossConfig, ModelConfig, Positive, Section
from jaxrec.losses.softmax import FullSoftmax
from jaxrec.models.base import SessionModel
from jaxrec.models.packed import unit

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Weights(Section):
    """The numbers of a blend for sessions of ``clicks`` clicks, or more, up to the next such part."""

    clicks: Count
    """The fewest clicks of the sessions that they are for."""
    temperatures: tuple[Positive, ...]
    """What the scores of each network are multiplied with."""
    exponents: tuple[Positive, ...]
    """What the votes of each neighbours' method are raised to."""
    shares: tuple[Share, ...]
    """Of the networks together, then of each neighbours' method; they sum to 1."""


class Config(ModelConfig):
    """Sessions of clicks: trained runs and nearest neighbours together."""

    task: ClassVar[str] = "blend"
    losses: ClassVar[tuple[type[LossConfig], ...]] = (FullSoftmax,)
    trained: ClassVar[bool] = False

    name: Literal["blend"] = "blend"
    networks: Annotated[tuple[str, ...], Field(min_length=1)] = ("run",)
    """The runs, as they were named; the blend keeps what it needs of them."""
    neighbours: tuple[str, ...] = ()
    """Baselines with their parameters, as evaluate takes them."""
    weights: tuple[Weights, ...] = ()
    """By the number of clicks, ascending from 1."""

    def check(self, config: Experiment) -> None:
        networks, neighbours = len(self.networks), len(self.neighbours)
        for place, one in enumerate(self.weights):
            lengths = len(one.temperatures), len(one.exponents), len(one.shares)
            if lengths != (networks, neighbours, 1 + neighbours):
                raise ValueError(f"model.weights.{place}: found {lengths} temperatures, exponents and shares; this "
                                 f"blend has {networks}, {neighbours} and {1 + neighbours}")  # fmt: skip
            if abs(sum(one.shares) - 1) > 1e-3 or not one.shares[0]:
                raise ValueError(f"model.weights.{place}.shares: found {one.shares}; they sum to 1, the first is not 0")
        clicks = [one.clicks for one in self.weights]
        if clicks and (clicks[0] != 1 or sorted(set(clicks)) != clicks):
            raise ValueError(f"model.weights: clicks {clicks} do not ascend from 1")


class Blend:
    """The networks of a blend, whose weights lie side by side: parameters by number, tables by number and name."""

    def __init__(self, networks: Sequence[SessionModel], weights: Sequence[Weights]) -> None:
        self.networks = list(networks)
        self.tables = {f"{n}.{name}": spec for n, one in enumerate(networks) for name, spec in one.tables.items()}
        self._clicks = np.array([one.clicks for one in weights], np.int64)
        self._temperatures = np.array([one.temperatures for one in weights], np.float32)
        self._exponents = np.array([one.exponents for one in weights])
        self._shares = np.array([one.shares for one in weights])

    def init(self, key: Array) -> Any:
        return {str(n): one.init(key) for n, one in enumerate(self.networks)}

    def carry(self, lanes: int) -> tuple[()]:
        return ()

    def each(self, weights: dict[str, Any]) -> list[tuple[SessionModel, Any, dict[str, Array]]]:
        """The networks with their parameters and tables."""
        tables = weights["tables"]
        return [(one, weights["params"].get(str(n), {}), {name: tables[f"{n}.{name}"] for name in one.tables})
                for n, one in enumerate(self.networks)]  # fmt: skip

    def items(self, weights: dict[str, Any]) -> Array:
        """float32[V, Q]: the networks' item vectors side by side."""
        return jnp.concatenate([model.items(tables) for model, _, tables in self.each(weights)], axis=1)

    def vectors(self, weights: dict[str, Any]) -> Array:
        """float32[V, D], what items are compared by: unit vectors of the networks side by side, so that the cosine of
        two rows is the mean of the networks'."""
        vectors = (model.vectors(tables) for model, _, tables in self.each(weights))
        return jnp.concatenate([unit(one) for one in vectors], axis=1)

    def scaled(self, queries: Sequence[Any], clicks: np.ndarray) -> np.ndarray:
        """float32[n, Q]: the networks' queries, float32[n, D] each, times the temperatures for their clicks."""
        scale = self._temperatures[self._part(clicks)]
        return np.concatenate([np.asarray(one) * scale[:, n, None] for n, one in enumerate(queries)], axis=1)

    def mixed(self, votes: Sequence[Any], clicks: np.ndarray) -> tuple[np.ndarray, Any]:
        """float64[n], the share of the networks in each query; and CSR float64[n, V], what the neighbours' methods add
        to the probabilities of the items that they name; from the CSR votes of each method."""
        part = self._part(clicks)
        shares, named = self._shares[part].copy(), list[Any]()
        for m, one in enumerate(votes):
            shares[np.diff(one.indptr) == 0, m + 1] = 0.0
            named.append(distribution(one, self._exponents[part, m]))
        shares /= shares.sum(axis=1, keepdims=True)
        added = sum(scaled_rows(one, shares[:, m + 1]) for m, one in enumerate(named))
        return shares[:, 0], added

    def _part(self, clicks: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._clicks, clicks, side="right") - 1


def distribution(votes: Any, exponents: np.ndarray) -> Any:
    """CSR float64[n, V], each row to the power of its exponent, then divided by its sum; a row without votes stays one.
    The power is taken of votes over the row's largest, so that none overflows."""
    row = np.repeat(np.arange(votes.shape[0]), np.diff(votes.indptr))
    largest, total = np.zeros((2, votes.shape[0]))
    np.maximum.at(largest, row, votes.data)
    raised = np.power(votes.data / largest[row], exponents[row])
    np.add.at(total, row, raised)
    return sparse.csr_array((raised / total[row], votes.indices, votes.indptr), shape=votes.shape)


def scaled_rows(rows: Any, factors: np.ndarray) -> Any:
    """CSR float64[n, V], each row times its factor."""
    data = rows.data * np.repeat(factors, np.diff(rows.indptr))
    return sparse.csr_array((data, rows.indices, rows.indptr), shape=rows.shape)


# ---- scores over the catalogue ---------------------------------------------------------------------------------------


def log_probabilities(queries: Array, items: Array, count: int, log_share: Array, named: Array, added: Array) -> Array:
    """float32[n, V]: the logarithm of the blend's probability of each item, -inf for padding, the rows from ``count``
    on; from float32[n, Q] scaled queries, float32[V, Q] items, float32[n] logarithms of the networks' share, and the
    int32[n, N] items (V for none) to whose probability float32[n, N] logarithms of neighbours' are added. Logarithms,
    since probabilities fall below the smallest float32."""
    scores = jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)
    if count < len(items):
        scores = jnp.where(jnp.arange(len(items)) < count, scores, -jnp.inf)
    scores = scores + (log_share - jax.nn.logsumexp(scores, axis=1))[:, None]
    row = jnp.arange(len(queries))[:, None]
    both = jnp.logaddexp(scores.at[row, named].get(mode="fill", fill_value=-jnp.inf), added)
    return scores.at[row, named].set(both, mode="drop")


Model = Blend
