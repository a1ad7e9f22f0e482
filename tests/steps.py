"""A small configuration, random weights and a step of a model outside the loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import config as configuration
from jaxrec.models.base import Model
from jaxrec.ops.tables import Tables, gather, plan_reads

Sections = dict[str, dict[str, Any]]


def config_of(*parts: Any) -> configuration.Config:
    """The configuration of these sections; later ones win over earlier ones."""
    values: Sections = {"data": {"path": "none"}}
    for part in parts:
        values |= {section: values.get(section, {}) | fields for section, fields in part.items()}
    return configuration.parse(values)


def random_weights(model: Model, scale: float = 0.6) -> dict[str, Any]:
    """``{params, tables}`` of normal noise: none is 0 or 1, as biases and scales are at first."""
    random = np.random.default_rng(0)
    like = {"params": jax.eval_shape(model.init, jax.random.key(0)),
            "tables": {name: np.zeros((spec.rows, spec.width)) for name, spec in model.tables.items()}}  # fmt: skip
    return jax.tree.map(lambda leaf: jnp.asarray(scale * random.normal(size=leaf.shape), jnp.float32), like)


def tables_of(model: Model, arrays: dict[str, Any], step: Any) -> Tables:
    """The tables as the training step hands them to the model."""
    reads = model.reads(step)
    plans = {
        name: plan_reads(jnp.zeros(spec.rows, jnp.int32), reads[name], jnp.int32(0), spec.width)[1]
        for name, spec in model.tables.items()
        if not spec.dense and name in reads
    }
    rows = {name: gather(array, plans[name].ids) if name in plans else array for name, array in arrays.items()}
    return Tables(rows, reads, plans)
