"""A step of a model outside the loop."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxrec.models.base import Model
from jaxrec.ops.tables import Tables, gather, plan_reads


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
