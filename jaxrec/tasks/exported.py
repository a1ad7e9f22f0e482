"""What a kind of run exports (``jaxrec.tasks.<kind>.export``): programs, functions of arrays alone; the weights that
they are called with; and the arrays and words by which raw ids become their inputs and their outputs items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array

from jaxrec.tasks.vectors import exact_kernel, kernel_k

BATCH = "batch"
"""The dimension of an input that is the number of rows a program takes."""
VECTORS = "vectors"
"""The weight that ranking multiplies queries with; its file has a row for each item, in the order of the ids."""
QUERIES = "what items are ranked for: a product with an item's vector is its score"


class Value(NamedTuple):
    """An input or an output; a dimension may be a word: ``batch``, or another one for any number."""

    name: str
    meaning: str
    dtype: str = ""  # of outputs the program says it, and the shape
    shape: tuple[int | str, ...] = ()


Function = Callable[..., Sequence[Any]]
"""From weights by name, and arrays for the inputs, to arrays for the outputs."""


@dataclass(frozen=True)
class Program:
    """``plain`` is the same function in operations that ONNX has, of weights without rows of padding."""

    name: str
    function: Function
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    plain: Function | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The dimensions of inputs that may be any number."""
        sizes = (size for value in self.inputs for size in value.shape)
        return tuple(dict.fromkeys(size for size in sizes if isinstance(size, str) and size != BATCH))


class Padding(NamedTuple):
    """Rows of zeros that a program wants before and behind those of the file of a weight."""

    before: int = 0
    behind: int = 0


@dataclass(frozen=True)
class Exports:
    """All that one run exports. ``weights`` are by name, and those of ``padding`` want rows of zeros; ``arrays`` by the
    name of their file without its ending; ``entries`` go into the manifest."""

    programs: list[Program]
    weights: dict[str, Any]
    loader: ModuleType  # the example, which becomes load.py
    entries: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    padding: dict[str, Padding] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 16, 256)  # unless others are asked for
    items: pa.Table | None = None  # ids, attributes and vectors


def named(tree: Any) -> tuple[dict[str, Array], Callable[[dict[str, Array]], Any]]:
    """The leaves of a tree by their paths, as ``params.decoder``, and what puts such leaves back into it."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]

    def whole(arrays: dict[str, Array]) -> Any:
        return jax.tree.unflatten(structure, [arrays[name] for name in names])

    return dict(zip(names, (leaf for _, leaf in paths), strict=True)), whole


def id_array(ids: Sequence[Any]) -> np.ndarray:
    """Raw ids as NumPy keeps them without pickle: int64[n], or text."""
    integers = len(ids) > 0 and all(type(one) is int for one in ids)
    return np.array(list(ids), np.int64) if integers else np.array([str(one) for one in ids], str)


def vectors_of(items: pa.Table) -> np.ndarray:
    """float32[n, D]: the column ``vector`` of a table."""
    column = items["vector"].combine_chunks()
    flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1)


# ---- ranking ---------------------------------------------------------------------------------------------------------


def rank_inputs(width: int) -> tuple[Value, ...]:
    """Queries of so many numbers, and what each must not get."""
    return (Value("queries", QUERIES, "float32", (BATCH, width)),
            Value("excluded", "positions of items that the query must not get, one or more; -1: none", "int32",
                  (BATCH, "excluded")))  # fmt: skip


RANKED = (Value("items", "positions of the best items, best first, of equals the lower one"),
          Value("scores", "their scores; -inf where exclusions leave fewer items"))  # fmt: skip


def rank_program(
    vectors: np.ndarray, k: int, memory: int, padding: Padding, final: Callable[[Array], Array] = lambda scores: scores
) -> Program:
    """The k best of float32[n, D] vectors by their products with queries, of which ``final`` makes scores; as
    ``jaxrec.tasks.vectors.nearest`` finds them."""
    first, count = padding.before, padding.before + len(vectors)

    def rank(weights: dict[str, Array], queries: Array, excluded: Array) -> tuple[Array, Array]:
        table = weights[VECTORS]
        ban = jnp.where(excluded < 0, len(table), excluded + first)
        none = jnp.broadcast_to(jnp.arange(first, dtype=ban.dtype), (len(ban), first))  # rows that stand for no item
        kernel = exact_kernel(table, count, memory)
        places, scores = kernel(queries, jnp.concatenate([none, ban], axis=1), kernel_k(k, len(table)))
        return (places - first)[:, :k], final(scores)[:, :k]

    def plain(weights: dict[str, Array], queries: Array, excluded: Array) -> tuple[Array, Array]:
        places, scores = plain_best(queries @ weights[VECTORS].T, excluded, k)
        return places, final(scores)

    return Program("rank", rank, rank_inputs(vectors.shape[1]), RANKED, plain)


def plain_best(scores: Array, excluded: Array, k: int) -> tuple[Array, Array]:
    """int32[B, k] and float32[B, k]: the best of float32[B, V] scores without int32[B, E] excluded places (-1: none),
    which are written into a further column."""
    rows, n = scores.shape
    wide = jnp.concatenate([scores, jnp.zeros((rows, 1))], axis=1)
    ban = jnp.where(excluded < 0, n, excluded)
    wide = wide.at[jnp.arange(rows)[:, None], ban].set(-jnp.inf)
    values, places = jax.lax.top_k(wide[:, :n], k)
    return places.astype(jnp.int32), values
