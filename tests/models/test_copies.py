"""A session's own items get the weights of their clicks, whatever else is scored, and training moves no code."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from steps import config_of

from jaxrec.data.dataset import Sessions
from jaxrec.models.base import make_model
from jaxrec.training.block import Training, training_plan

pytestmark = pytest.mark.numbers

N_ITEMS, WIDTH, CODES = 30, 6, 2048
MODEL = {"name": "narm", "embedding_dim": WIDTH, "layers": [WIDTH], "window": 5, "temperature": 4, "copy_dim": CODES}
ITEMS = np.random.default_rng(1).integers(0, N_ITEMS, 60).astype(np.int32)
SESSIONS = Sessions(ITEMS, np.arange(60), np.arange(0, 61, 6))


def made(**sections: Any) -> Any:
    config = config_of({"model": MODEL}, {"training": {"batch_size": 8}} | sections)
    return config, make_model(config, N_ITEMS)


def test_the_weights_of_clicks_add_to_the_scores_of_their_items() -> None:
    """3 was clicked 3 clicks and 1 click before the last; the sixth click back lies outside the window."""
    _, model = made()
    params, spec = model.init(jax.random.key(0)), model.tables["item"]
    tables = {"item": spec.init(jax.random.key(1), (spec.rows, spec.width))}
    draw = np.random.default_rng(2)
    near, gate = draw.normal(size=5), draw.normal(size=WIDTH)
    session, length = jnp.array([[9, 3, 4, 3, 5]]), jnp.array([5])

    def scores(near: Any, gate: Any) -> tuple[np.ndarray, np.ndarray]:
        own = {"near": jnp.asarray(near, jnp.float32), "gate": jnp.asarray(gate, jnp.float32)}
        query = model.last_query(params | {"copies": own}, tables, session, length)
        return np.asarray(query[0]), np.asarray(query @ model.items(tables).T)[0]

    (query, with_copies), (_, without) = scores(near, gate), scores(np.zeros(5), np.zeros(WIDTH))
    opened, expected = query[:WIDTH] / 4 @ gate, np.zeros(N_ITEMS)
    assert np.linalg.norm(query[:WIDTH]) == pytest.approx(4, rel=1e-5)
    for item, ago in ((9, 4), (3, 3), (4, 2), (3, 1), (5, 0)):
        expected[item] += near[ago] + opened
    noise = 5 * np.abs(np.append(near, opened)).max() * 5**0.5 / CODES**0.5  # five standard deviations of it
    np.testing.assert_allclose(with_copies - without, expected, atol=noise)
    assert np.abs(expected).max() > 2 * noise, "the noise does not hide what is tested"
    assert model.vectors(tables).shape == (N_ITEMS, WIDTH)


@pytest.mark.parametrize(("optimizer", "loss"), [
    ({"name": "adam", "learning_rate": 0.1, "weight_decay": 0.5}, {"name": "softmax"}),
    ({"name": "adam", "learning_rate": 0.1, "tables": "rowwise_adagrad"}, {"n_sample": 8}),
])  # fmt: skip
def test_training_moves_the_weights_and_no_code(optimizer: dict[str, Any], loss: dict[str, Any]) -> None:
    config, model = made(optimizer=optimizer, loss=loss)
    training = Training(config, model, model.feed(SESSIONS, training_plan(config)))
    before = training.make()
    vectors, codes = np.split(np.asarray(model.items(before.tables)), [WIDTH], axis=1)
    after = training.fit(model.constants(np.ones(N_ITEMS)))
    moved, same = np.split(np.asarray(model.items(after["tables"])), [WIDTH], axis=1)
    np.testing.assert_array_equal(same, codes)
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, rtol=1e-5)
    assert np.abs(moved - vectors).max() > 0.01 and np.abs(after["params"]["copies"]["near"]).max() > 0.01
    assert np.abs(after["params"]["copies"]["gate"]).max() > 0.01
