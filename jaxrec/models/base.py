"""What the training loop, evaluation and recommendation ask of a model, and models by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
from jax import Array

from jaxrec.config import Config, find_model
from jaxrec.config.sections import Fraction, ModelConfig
from jaxrec.feeds.base import Feed, Plan
from jaxrec.losses.sampled import Step
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import Reads, RowPlan, Tables, TableSpec

Loss = tuple[Array, tuple[Any, Array]]
"""The training loss of a step; then the carry, and the targets' losses or their sum, for the log."""


class Dropping(ModelConfig):
    """What the configurations of all models here have."""

    dropout_embedding: Fraction = 0.0
    """Dropout on the input vectors."""
    dropout_hidden: Fraction = 0.0
    """Dropout on what layers hand on; the model's network says where."""


class Model(Protocol):
    """A model holds no parameters and no tables: it says which it needs and works on the vectors it is handed."""

    tables: dict[str, TableSpec]
    carries_lanes: bool = False  # whether the carry's leaves lead with lanes; otherwise all devices have the same

    def feed(self, split: Any, plan: Plan) -> Feed:
        """The blocks that the model reads a split in."""

    def init(self, key: Array) -> Any:
        """The dense parameters."""

    def packed(self, params: Any, on: Placement) -> Any:
        """The parameters as a block of steps works on them, and ``loss`` gets them."""
        return params

    def unpacked(self, params: Any) -> Any:
        """``init``'s form of ``packed`` parameters."""
        return params

    def carry(self, lanes: int) -> Any:
        """What goes from step to step, at the start of an epoch."""
        return ()

    def constants(self, counts: Any) -> Any:
        """Device arrays made once a run from int64[V] ``counts`` of items or values, or ``Interactions``."""

    def dealt(self, constants: Any, whole: Callable[[Any], Any], by_rows: Callable[[Any], Any]) -> Any:
        """The constants with ``by_rows`` of arrays with a row for each item, which are dealt over devices as the rows
        of tables are (``ops.rows.DealtRows``), and ``whole`` of the rest."""
        return whole(constants)

    def steps(self, constants: Any, block: Any, keys: Array, on: Placement = ONE) -> Any:
        """What each step of a block works on (leaves [S, ...]), with one random key per step."""

    def planned(self, steps: Any, plans: dict[str, RowPlan], on: Placement) -> Any:
        """The steps with what accelerators work out at once for all of them, from the plans of the tables' reads."""
        return steps

    def reads(self, step: Any) -> dict[str, Reads]:
        """What a step reads of each table, dense or not; what it does not name it asks for whole."""

    def loss(self, params: Any, tables: Tables, carry: Any, step: Any, key: Array, constants: Any) -> Loss:
        """The loss of a step; ``tables`` knows what ``reads`` asked for, and the devices."""


class SessionModel(Model, Protocol):
    """A model that ranks what comes next in a session; its splits are ``Sessions``."""

    window: int | None  # a score depends on the last so many clicks; None: on all of the session
    reads_times: bool = False  # whether ``last_query`` takes the clicks' times as well
    _ranking: Any  # what queries are ranked against, of losses.sampled

    def constants(self, counts: Any) -> Any:
        return self._ranking.constants(counts)

    def dealt(self, constants: Any, whole: Callable[[Any], Any], by_rows: Callable[[Any], Any]) -> Any:
        return jax.tree.map(by_rows, constants)

    def steps(self, constants: Any, block: Any, keys: Array, on: Placement = ONE) -> Step:
        return Step(block, self._ranking.draw(constants, block.target, keys, on))

    def planned(self, steps: Step, plans: dict[str, RowPlan], on: Placement) -> Step:
        return steps._replace(drawn=self._ranking.counted(steps, plans["item"], on)) if plans else steps

    def encode(self, params: Any, tables: dict[str, Array], carry: Any, block: Any) -> tuple[Any, Array]:
        """The carry, and float32[S, B, Q], a query vector for each target, whose products with ``items`` rank."""

    def last_query(self, params: Any, tables: dict[str, Array], items: Array, length: Array) -> Array:
        """float32[B, Q]: the query after the last click of each session, from int32[B, N] items, padded behind int32[B]
        clicks of each; N is one of a few lengths, at most ``window``. Where ``reads_times`` says so there may be one
        argument more: int32[B, N], when each click was, in seconds from any moment on; below 0 nobody knows."""

    def items(self, tables: dict[str, Array]) -> Array:
        """float32[V, Q], what queries are multiplied with to rank."""

    def vectors(self, tables: dict[str, Array]) -> Array:
        """float32[V, D], what items are compared by."""


class ClickModel(Model, Protocol):
    """A model of the label of single rows, int32[B, C] columns and float32[B, M] numbers; its splits are ``Rows``."""

    def logits(self, params: Any, tables: dict[str, Array], columns: Array, numbers: Array) -> Array:
        """float32[B]: the log odds of a positive label."""

    def attention(self, params: Any, tables: dict[str, Array], columns: Array, numbers: Array) -> list[Array]:
        """float32[B, heads, F, F] of each layer: how much the row's field draws from the column's."""


class TowerModel(Model, Protocol):
    """A model of users and items in one space; its splits are the positive ``Rows`` of ``Retrieval``."""

    def encode(self, side: str, weights: dict[str, Any], columns: Array, numbers: Array) -> Array:
        """float32[n, D] unit vectors, whose products rank, of a side, user or item; int32[n, C], float32[n, M]."""


def make_model(config: Config, *data: Any) -> Any:
    """The configured model, for a number of items or a ``Schema``, and for ``first_order`` logistic a regression."""
    return find_model(config.model.name).Model(config, *data)
