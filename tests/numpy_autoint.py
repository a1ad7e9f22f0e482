"""AutoInt and AutoInt+ (Song et al. 2019) as the paper's equations have them, in NumPy and one row at a time."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxrec.config import Config
from jaxrec.data.rows import Field, Rows, Schema

Weights = dict[str, Any]

# Numbers stand between coded fields, so that the order of the fields is not that of the table.
SCHEMA = Schema(
    (
        Field("user", "categorical", "user", 9),
        Field("price", "numerical", "item", 1, 0),
        Field("tags", "bag", "item", 6, 3),
        Field("kind", "categorical", "item", 4),
        Field("age", "numerical", "user", 1, 0),
    ),
    user=None, item=None, threshold=4.0, low=1.0, high=5.0,
)  # fmt: skip
FIRST = {"user": 0, "tags": 9, "kind": 15, "price": 19, "age": 20}  # of each field's rows in the table
COLUMNS = {"user": slice(0, 1), "tags": slice(1, 4), "kind": slice(4, 5)}


def field_vectors(table: np.ndarray, columns: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """float64[F, D] of one row: section 4.2."""
    vectors = []
    for field in SCHEMA.fields:
        if field.kind == "numerical":
            vectors.append(table[FIRST[field.name]] * numbers[["price", "age"].index(field.name)])
        else:
            held = [table[FIRST[field.name] + code] for code in columns[COLUMNS[field.name]] if code >= 0]
            vectors.append(np.mean(held, axis=0) if held else np.zeros(table.shape[1]))
    return np.array(vectors)


def interact(p: Weights, e: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Equations 5 to 8 for one row, head by head: float64[F, A], and the weights [heads, F, F]."""
    query, key, value, residual = np.split(p["projection"], 4)
    parts, weights = [], []
    for q, k, v in zip(*(np.split(matrix, heads) for matrix in (query, key, value)), strict=True):
        powers = np.exp((e @ q.T) @ (e @ k.T).T)
        weights.append(powers / powers.sum(axis=1, keepdims=True))
        parts.append(weights[-1] @ (e @ v.T))
    mixed = np.maximum(np.concatenate(parts, axis=1) + e @ residual.T, 0)
    if "scale" in p:
        centred = mixed - mixed.mean(axis=1, keepdims=True)
        mixed = p["scale"][:, 0] * centred / np.sqrt(mixed.var(axis=1, keepdims=True) + 1e-6) + p["bias"][:, 0]
    return mixed, np.array(weights)


def outputs(config: Config, p: Weights, table: np.ndarray, columns: np.ndarray, numbers: np.ndarray) -> Any:
    """The logit of one row, and the rating where there are two outputs; and the attention weights by layer."""
    model = config.model
    e = field_vectors(table[:, : model.embedding_dim], columns, numbers)
    total, x, weights = p["bias"][:, 0].copy(), e, []
    for layer in range(model.blocks):
        x, found = interact(p[f"layer_{layer}"], x, model.heads)
        weights.append(found)
    if model.blocks:
        total += p["attention_output"] @ x.reshape(-1)  # equation 10: all fields side by side
    hidden = e.reshape(-1)
    for layer in range(len(model.deep)):
        hidden = np.maximum(p[f"deep_{layer}"] @ hidden + p[f"deep_{layer}_bias"][:, 0], 0)
    if model.deep:
        total += p["deep_output"] @ hidden
    if model.first_order == "weights":
        total[0] += field_vectors(table[:, model.embedding_dim :], columns, numbers).sum()
    return total, weights


def value_counts(data: Rows) -> np.ndarray:
    """int64[values of the coded fields]: the rows that hold each."""
    codes = np.where(data.columns < 0, -1, data.columns + np.array([0, 9, 9, 9, 15]))
    return np.bincount(codes[codes >= 0], minlength=FIRST["price"])


def in_double(weights: Any) -> Any:
    return jax.tree.map(lambda leaf: np.float64(leaf), weights)


def all_outputs(config: Config, params: Any, tables: Any, data: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
    """float64[n, outputs], and float64[n, heads, F, F] of each layer."""
    p, table = in_double(params), np.asarray(tables["field"], np.float64)
    found = [outputs(config, p, table, *row) for row in zip(data.columns, data.numbers, strict=True)]
    layers = [np.stack(part) for part in zip(*(weights for _, weights in found), strict=True)]
    return np.stack([total for total, _ in found]), layers
