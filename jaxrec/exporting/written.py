"""What a writer of a format makes of one program."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from jaxrec.tasks.exported import BATCH, Program, Value


class Written(NamedTuple):
    """The content of a file, the weights that it reads, in the order that it takes them, and what comes out of it."""

    content: bytes
    weights: list[str]
    outputs: list[dict[str, Any]]


def words(program: Program, batch: int) -> dict[Any, Any]:
    """The sizes of the dimensions that are words: the batch, and others that stay open."""
    names = program.words
    return dict(zip(names, export.symbolic_shape(", ".join(names)) if names else (), strict=True)) | {BATCH: batch}


def sized(program: Program, sizes: dict[Any, Any]) -> list[jax.ShapeDtypeStruct]:
    """The inputs of a program."""
    return [jax.ShapeDtypeStruct(tuple(sizes.get(one, one) for one in value.shape), np.dtype(value.dtype))
            for value in program.inputs]  # fmt: skip


def described(value: Value, dtype: Any = None, shape: Any = None) -> dict[str, Any]:
    """An input or output as the manifest has it."""
    shape = value.shape if shape is None else shape
    return {"name": value.name, "shape": [one if isinstance(one, int) else str(one) for one in shape],
            "dtype": str(np.dtype(value.dtype if dtype is None else dtype)), "meaning": value.meaning}  # fmt: skip
