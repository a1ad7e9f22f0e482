"""The models by name, and what the training loop, evaluation and recommendation ask of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from jax import Array

from jaxrec.config import Config
from jaxrec.data.dataset import Sessions
from jaxrec.data.feed import Plan, Shape
from jaxrec.models.gru4rec import GRU4Rec
from jaxrec.models.narm import narm
from jaxrec.models.sasrec import sasrec
from jaxrec.tables import Reads, RowPlan, TableSpec


class Model(Protocol):
    """A model holds no parameters and no tables: it says which it needs and works on the vectors it is handed."""

    tables: dict[str, TableSpec]
    window: int | None  # a score depends on the last so many clicks; None: on all of the session

    def feed(self, sessions: Sessions, plan: Plan) -> Feed:
        """The blocks that the model reads a split in."""

    def init(self, key: Array) -> Any:
        """The dense parameters."""

    def carry(self, lanes: int) -> Any:
        """What goes from step to step, at the start of an epoch."""

    def constants(self, counts: np.ndarray) -> Any:
        """Device arrays made once a run from int64[V] ``counts``, the items' occurrences in the training split."""

    def steps(self, constants: Any, block: Any, keys: Array) -> Any:
        """What each step of a block reads (leaves [S, ...]), with one random key per step."""

    def reads(self, step: Any) -> dict[str, Reads]:
        """What a step reads of each table that is not dense."""

    def loss(
        self,
        params: Any,
        rows: dict[str, Array],
        plans: dict[str, RowPlan],
        carry: Any,
        step: Any,
        key: Array,
        constants: Any,
    ) -> tuple[Array, tuple[Any, Array]]:
        """The training loss of a step; then the carry and the sum of the targets' losses, for the log.

        ``rows`` holds the rows of each table's plan, and dense tables whole.
        """

    def encode(self, params: Any, tables: dict[str, Array], carry: Any, block: Any) -> tuple[Any, Array]:
        """The carry, and float32[S, B, Q], a query vector for each target, whose products with ``items`` rank."""

    def last_query(self, params: Any, tables: dict[str, Array], items: Array, length: Array) -> Array:
        """float32[B, Q]: the query after the last click of each session.

        Args:
            items: int32[B, N], sessions, padded behind their ends; N is a power of two, or at most ``window``.
            length: int32[B], clicks of each.
        """

    def items(self, tables: dict[str, Array]) -> Array:
        """float32[V, Q], what queries are multiplied with to rank."""

    def vectors(self, tables: dict[str, Array]) -> Array:
        """float32[V, D], what items are compared by."""


class Feed(Protocol):
    """Blocks of a split by (epoch, block). Leaves lead with [steps, ...]; among them are ``target`` and ``weight``
    [steps, B], a weight of 0 marking what is no target."""

    shape: Shape

    @property
    def pairs(self) -> int:
        """Targets in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The blocks of an epoch from block ``start`` on."""

    def like(self) -> Any:
        """Shapes and dtypes of a block, to compile for."""


MODELS: dict[str, Callable[[Config, int], Model]] = {"gru4rec": GRU4Rec, "narm": narm, "sasrec": sasrec}


def make_model(config: Config, n_items: int) -> Model:
    """The configured model for a catalogue of ``n_items``."""
    return MODELS[config.model.name](config, n_items)
