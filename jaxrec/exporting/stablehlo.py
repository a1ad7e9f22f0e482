"""Programs as StableHLO, for several platforms in one file, by ``jax.export``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jaxrec.exporting.written import Written, described, sized, words
from jaxrec.tasks.exported import BATCH, Exports, Program

NEEDS = ("jax", "numpy", "flatbuffers")
ARGUMENTS = (
    "the weights that a program names, with rows of zeros before and behind as their padding says; then its inputs"
)


def check() -> None:
    """Refuse to begin where what writes programs is not installed."""
    importlib.import_module("flatbuffers")


def write(
    program: Program, exports: Exports, batch: int, stage: Path, files: dict[str, str], platforms: Sequence[str]
) -> Written:
    """A program for so many rows. Its arguments are weights, then inputs."""
    used = _used(program, exports, batch)
    exported = _export(program, exports, used, words(program, batch), platforms)
    outputs = [described(value, aval.dtype, aval.shape)
               for value, aval in zip(program.outputs, exported.out_avals, strict=True)]  # fmt: skip
    return Written(bytes(exported.serialize()), used, outputs)


def _used(program: Program, exports: Exports, batch: int) -> list[str]:
    """The weights that a program reads, which JAX tells of shapes that are numbers alone."""
    every = list(exports.weights)
    sizes = dict.fromkeys(program.words, 8) | {BATCH: batch}
    kept = _export(program, exports, every, sizes, ("cpu",), keep=False).module_kept_var_idx
    return [every[place] for place in kept if place < len(every)]


def _export(
    program: Program, exports: Exports, names: Sequence[str], sizes: dict[Any, Any], platforms: Sequence[str],
    keep: bool = True,
) -> Any:  # fmt: skip
    """A program of some weights, for inputs whose words have sizes; arguments that are not read stay where ``keep``."""

    def run(*arguments: Any) -> tuple[Any, ...]:
        rest = {name: jnp.zeros(one.shape, one.dtype) for name, one in shapes.items() if name not in names}
        weights = rest | dict(zip(names, arguments, strict=False))
        return tuple(program.function(weights, *arguments[len(names) :]))

    shapes = {name: _shape(exports, name) for name in exports.weights}
    run.__name__ = program.name
    compiled = jax.jit(run, keep_unused=keep)
    return export.export(compiled, platforms=tuple(platforms))(
        *(shapes[name] for name in names), *sized(program, sizes)
    )


def _shape(exports: Exports, name: str) -> jax.ShapeDtypeStruct:
    """Of a weight as the programs take it, with its rows of zeros."""
    array, padding = exports.weights[name], sum(exports.padding.get(name, ()))
    shape = (array.shape[0] + padding, *array.shape[1:]) if padding else array.shape
    return jax.ShapeDtypeStruct(shape, array.dtype)
