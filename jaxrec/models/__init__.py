"""The models by name, and what the training loop, evaluation and recommendation ask of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from jax import Array

from jaxrec.config import Config
from jaxrec.data.feed import Block
from jaxrec.models.gru4rec import GRU4Rec
from jaxrec.tables import Reads, RowPlan, TableSpec


class Model(Protocol):
    """A model holds no parameters and no tables: it says which it needs and works on the vectors it is handed."""

    tables: dict[str, TableSpec]

    def init(self, key: Array) -> Any:
        """The dense parameters."""

    def carry(self, lanes: int) -> Any:
        """What goes from step to step, at the start of an epoch."""

    def constants(self, counts: np.ndarray) -> Any:
        """Device arrays made once a run from int64[V] ``counts``, the items' occurrences in the training split."""

    def steps(self, constants: Any, block: Block, keys: Array) -> Any:
        """What each step of a block reads (leaves [S, ...]), with one random key per step."""

    def reads(self, step: Any) -> dict[str, Reads]:
        """What a step reads of each table."""

    def loss(
        self, params: Any, rows: dict[str, Array], plans: dict[str, RowPlan], carry: Any, step: Any, key: Array
    ) -> tuple[Array, tuple[Any, Array]]:
        """The training loss of a step; then the carry and the sum of the lanes' losses, for the log."""

    def encode(self, params: Any, tables: dict[str, Array], carry: Any, block: Block) -> tuple[Any, Array]:
        """The carry, and float32[S, B, Q] query vectors after each input, whose products with ``items`` rank."""

    def items(self, tables: dict[str, Array]) -> Array:
        """float32[V, Q], what queries are multiplied with to rank."""

    def vectors(self, tables: dict[str, Array]) -> Array:
        """float32[V, D], what items are compared by."""


MODELS: dict[str, Callable[[Config, int], Model]] = {"gru4rec": GRU4Rec}


def make_model(config: Config, n_items: int) -> Model:
    """The configured model for a catalogue of ``n_items``."""
    return MODELS[config.model.name](config, n_items)
