"""Two towers of the fields of numpy_two_tower.py, weights for them, and what a single step gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy_two_tower import SCHEMA, Given
from steps import tables_of

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.rows import Rows
from jaxrec.feeds.rows import RowBlock
from jaxrec.models.two_tower import Interactions, TwoTower

BATCH = 16
FIELDS = tuple(field.name for field in SCHEMA.fields if field.side != "context")


def make_config(**sections: dict[str, Any]) -> Config:
    values: dict[str, dict[str, Any]] = {
        "data": {"path": "x", "fields": FIELDS},
        "model": {"name": "two_tower", "embedding_dim": 5, "hidden": [8], "output_dim": 4, "dropout_hidden": 0.0},
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
        "training": {"batch_size": BATCH},
    }
    for section, fields in sections.items():
        values[section] = values.get(section, {}) | fields
    return configuration.parse(values)


def random_weights(model: TwoTower, seed: int = 0) -> Given:
    """Parameters and statistics of which none is 0 or 1, as they are at first."""
    random = np.random.default_rng(seed)

    def like(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(0.7 * random.normal(size=leaf.shape), jnp.float32), tree)

    params = like(jax.eval_shape(model.init, jax.random.key(0)))
    statistics = like(jax.eval_shape(model.carry, BATCH)["statistics"])
    statistics = jax.tree.map_with_path(lambda path, leaf: jnp.abs(leaf) if "var" in str(path) else leaf, statistics)
    tables = {
        name: jnp.asarray(random.normal(size=(spec.rows, spec.width)), jnp.float32)
        for name, spec in model.tables.items()
    }
    return Given(params, statistics, tables)


def block_of(data: Rows, weight: np.ndarray, steps: int = 1) -> RowBlock:
    leaves = (data.columns, data.numbers, data.labels, data.ratings, np.float32(weight))
    return RowBlock(*(np.broadcast_to(leaf, (steps, *leaf.shape)) for leaf in leaves))


class Found(NamedTuple):
    """What a step gives: the step as ``loss`` reads it and the rows of tables that it reads, the mean and the sum of
    its losses, the carry, and the derivatives of the mean by parameters and tables."""

    step: Any
    reads: Any
    mean: Any
    total: Any
    carry: Any
    slopes: tuple[Any, Any]


class Stepping:
    """Takes single steps of a model, in one program for all."""

    def __init__(self, model: TwoTower, known: Interactions) -> None:
        self.model, self.constants = model, model.constants(known)
        self._take = jax.jit(self._traced)

    def take(self, given: Given, data: Rows, weight: np.ndarray, key: int = 1, **carry: Any) -> Found:
        """A step that holds these rows; ``carry`` is what the model's holds beside the statistics."""
        held = {"statistics": given.statistics} | carry
        found = self._take(
            given.params, given.tables, held, block_of(data, weight), self.constants, jax.random.key(key)
        )
        return Found(*jax.tree.map(np.asarray, found))

    def _traced(self, params: Any, tables: Any, carry: Any, block: RowBlock, constants: Any, key: Any) -> Found:
        model = self.model
        steps = model.steps(constants, block, jax.random.split(jax.random.key(5), 1))
        step = jax.tree.map(lambda leaf: leaf[0], steps)

        def objective(params: Any, tables: Any) -> Any:
            return model.loss(params, tables_of(model, tables, step), carry, step, key, constants)

        derivative = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (mean, (new, total)), slopes = derivative(params, tables)
        return Found(step, model.reads(step), mean, total, new, slopes)
