"""AutoInt and AutoInt+ are the published ones: the paper's equations in NumPy, row by row; and how they are trained."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from steps import assert_slopes, config_of, random_weights, take_step

from jaxrec.config import Config
from jaxrec.data.dataset import Field, Rows, Schema
from jaxrec.feeds.base import RowBlock
from jaxrec.models.autoint import AutoInt
from jaxrec.models.fields import byte_mask
from jaxrec.ops.field_attention import LANES, attend
from jaxrec.ops.parallel import Placement

# ---- the paper's equations (Song et al. 2019), one row at a time -----------------------------------------------------

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


def all_outputs(config: Config, params: Any, tables: Any, data: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
    """float64[n, outputs], and float64[n, heads, F, F] of each layer."""
    p, table = jax.tree.map(np.float64, params), np.asarray(tables["field"], np.float64)
    found = [outputs(config, p, table, *row) for row in zip(data.columns, data.numbers, strict=True)]
    layers = [np.stack(part) for part in zip(*(weights for _, weights in found), strict=True)]
    return np.stack([total for total, _ in found]), layers


VARIANTS: dict[str, dict[str, Any]] = {
    "autoint": {"blocks": 2, "heads": 2, "attention_dim": 6},
    "autoint-plus": {"blocks": 1, "heads": 1, "attention_dim": 4, "deep": [7, 5], "first_order": "weights"},
    "norm": {"blocks": 3, "heads": 3, "attention_dim": 6, "norm": "layer", "deep": [4], "dropout_attention": 0.3},
    "deep": {"blocks": 0, "deep": [8], "dropout_embedding": 0.3, "dropout_hidden": 0.3},
}
RATING = {"rating_weight": 0.7, "embedding_l2": 0.03}


def make_config(model: dict[str, Any], **sections: dict[str, Any]) -> Config:
    small = {"model": {"name": "autoint", "embedding_dim": 5, **model}, "optimizer": {"name": "sgd"}}
    return config_of(small, {"training": {"metric": "auc"}}, sections)


@cache
def rows(n: int = 40) -> Rows:
    """Unknown values, bags of none to three values, ratings 1 to 5."""
    random = np.random.default_rng(0)
    columns = np.stack([random.integers(0, size, n) for size in (9, 6, 6, 6, 4)], axis=1).astype(np.int32)
    held = np.arange(n) % 4
    columns[:, 1:4][np.arange(3) >= held[:, None]] = -1
    ratings = random.integers(1, 6, n).astype(np.float32)
    labels = (ratings >= 4).astype(np.float32)
    numbers = random.normal(size=(n, 2)).astype(np.float32)
    return Rows(columns, numbers, labels, ratings, np.zeros(n, np.int64), np.zeros(n, np.int32))


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_attention_are_those_of_the_equations(name: str) -> None:
    """Dropout is of training alone."""
    loss = RATING if name == "norm" else {}  # a second output does not change the first
    config, data = make_config(VARIANTS[name], loss=loss), rows()
    model = AutoInt(config, SCHEMA)
    params, tables = random_weights(model).values()
    row = (params, tables, data.columns, data.numbers)
    found, attended = jax.jit(lambda *row: (model.logits(*row), model.attention(*row)))(*row)
    expected, layers = all_outputs(config, params, tables, data)
    assert expected.shape[1] == (2 if loss else 1) and expected[:, 0].std() > 0.3
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-4, atol=2e-5)
    assert len(attended) == len(layers) == config.model.blocks
    for ours, theirs in zip(attended, layers, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def plain_losses(config: Config, weights: Any, data: Rows) -> tuple[np.ndarray, np.ndarray]:
    """float64[n] twice: the loss of each row, and its cross-entropy alone."""
    loss, table = config.loss, np.asarray(weights["tables"]["field"], np.float64)
    expected, _ = all_outputs(config, weights["params"], weights["tables"], data)
    likelihood = np.logaddexp(0, np.where(data.labels > 0, -1, 1) * expected[:, 0])
    each = likelihood.copy()
    if loss.rating_weight:
        each += loss.rating_weight * (expected[:, 1] - (data.ratings - 1) / 4) ** 2
    counts = np.append(value_counts(data), [len(data)] * 2)  # numbers stand in every row
    cost = loss.embedding_l2 * np.maximum(counts, 1.0) ** -loss.embedding_l2_power
    for row, columns in enumerate(data.columns):
        codes = [FIRST[name] + code for name, place in COLUMNS.items() for code in columns[place] if code >= 0]
        for code in (*codes, FIRST["price"], FIRST["age"]):
            each[row] += cost[code] * np.sum(table[code] ** 2)
    return each, likelihood


LOSSES: list[tuple[dict[str, float], str]] = [
    ({}, "dense"), ({"embedding_l2": 0.03}, "rows"), (RATING | {"embedding_l2_power": 0.5}, "dense"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "table"), LOSSES, ids=str)
def test_the_loss_is_that_of_the_equations(loss: dict[str, float], table: str) -> None:
    """Mean over the step's places, of which some hold no row; what is reported is the cross-entropy alone."""
    config = make_config(VARIANTS["autoint-plus"] | {"table": table}, loss=loss)
    model, data = AutoInt(config, SCHEMA), rows()
    weights, live = random_weights(model), (np.arange(len(data)) < 33).astype(np.float32)
    leaves = (data.columns, data.numbers, data.labels, data.ratings, live)
    found = take_step(model, model.constants(value_counts(data)), RowBlock(*(leaf[None] for leaf in leaves)), weights)
    each, likelihood = plain_losses(config, weights, data)
    assert float(found.mean) == pytest.approx(np.sum(each * live) / len(data), rel=1e-5)
    assert float(found.total) == pytest.approx(np.sum(likelihood * live), rel=1e-5)

    def plain(weights: Any) -> float:
        return float(plain_losses(config, weights, data)[0] @ live) / len(data)

    assert_slopes(found.slopes, plain, weights, 1e-6, 5e-3)
    if table == "rows":
        ids = np.asarray(model.reads(found.step)["field"]["row"].ids).reshape(len(data), -1)
        assert (ids[live > 0] >= 0).any(axis=1).all() and (ids < model.tables["field"].rows).all()
        assert (ids[live == 0] < 0).all(), "outside the table: momentum does not move what no row reads"


@pytest.mark.parametrize(("rate", "of_256"), [(0.5, 128), (0.1, 26), (0.0005, 1), (0.9999, 255)])
def test_masks_drop_their_share_and_keep_the_mean(rate: float, of_256: int) -> None:
    mask = np.asarray(byte_mask(jax.random.key(3), (1024, 512), rate))
    assert set(np.unique(mask)) == {np.float32(0), np.float32(256 / (256 - of_256))}
    deviation = np.sqrt(of_256 * (256 - of_256)) / 256 / np.sqrt(mask.size)
    assert abs(np.mean(mask == 0) - of_256 / 256) < 4 * deviation


# ---- attention over fields, whose derivative is written by hand ------------------------------------------------------


def attend_on(platform: str) -> Any:
    return lambda projected, heads, keep: attend(projected, heads, Placement(platform=platform), keep)


ATTEND = {platform: attend_on(platform) for platform in ("cpu", "gpu")}
SHAPES = [  # fields, heads, channels of all heads, rows
    (5, 2, 6, 3 * LANES),
    (4, 3, 3, LANES),  # heads of one channel
    (6, 2, 8, LANES + 6),  # no multiple
    (4, 4, 8, 1),
    (1, 2, 4, 5),  # a single field attends to itself
]


def attend_plainly(projected: Any, heads: int, keep: Any) -> Any:
    """Equations 5 to 8: relu(sum over j of weight_ij value_j + residual_i), [F, A, B]."""
    fields, _, rows = projected.shape
    query, key, value, residual = jnp.moveaxis(projected.reshape(fields, 4, heads, -1, rows), 1, 0)
    weights = jax.nn.softmax(jnp.einsum("ihcb,jhcb->ijhb", query, key), axis=1)
    mixed = jnp.einsum("ijhb,jhcb->ihcb", weights if keep is None else weights * keep, value) + residual
    return jnp.maximum(mixed, 0.0).reshape(fields, -1, rows)


@partial(jax.jit, static_argnames=("function", "heads"))
def forward_and_back(function: Any, projected: Any, slope: Any, heads: int, keep: Any) -> tuple[Any, Any]:
    result, back = jax.vjp(lambda x: function(x, heads, keep), projected)
    return result, back(slope)[0]


def projections(fields: int, heads: int, width: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections, the slope of some loss at the result, and factors of the weights."""
    random = np.random.default_rng(fields + heads + width + rows)
    keep = (random.random((fields, fields, heads, rows)) < 0.7) / 0.7
    projected, slope = (random.normal(size=(fields, n * width, rows)) for n in (4, 1))
    return projected.astype(np.float32), slope.astype(np.float32), keep.astype(np.float32)


@pytest.mark.numbers
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("function", ATTEND.values(), ids=ATTEND)
def test_attention_and_its_derivative_are_those_of_the_equations(
    case: tuple[int, ...], dropped: bool, function: Any
) -> None:
    """In float64, however many the rows are."""
    projected, slope, keep = projections(*case)
    mask = keep if dropped else None
    found = forward_and_back(function, projected, slope, case[1], mask)
    with jax.enable_x64(True):
        double = [None if leaf is None else np.float64(leaf) for leaf in (projected, slope, mask)]
        expected = jax.tree.map(np.asarray, forward_and_back(attend_plainly, *double[:2], case[1], double[2]))
    assert 0.1 < np.mean(expected[0] > 0) < 0.9, "the relu has both sides"
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
