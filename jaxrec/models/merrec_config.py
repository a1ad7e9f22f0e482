"""The configuration of MERRec: its section, its losses, and what it adds to the data section."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Amount, Count, Fraction, LossConfig, Positive, Section
from jaxrec.losses.sampled import SampledLoss, cross_entropy
from jaxrec.losses.softmax import SoftmaxLoss
from jaxrec.models.packed import HalfLife, Windowed

CategoryWeight = Annotated[float, Field(ge=0.0, le=2.0)]


class CrossEntropy(SampledLoss):
    """Softmax cross-entropy over the step's targets and drawn items; with logq 1 it is the sampled softmax."""

    name: Literal["cross_entropy"] = "cross_entropy"
    logq: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Strength of the logQ correction for how often each item is a negative (0: off, 1: full)."""
    candidates: Literal["live", "all"] = "live"
    """Where the data say when items are listed and sold, a target's negatives are those of the step's candidates that
    are live at the time (so fewer than n_sample), or all."""
    category_weight: CategoryWeight = 0.0
    """A target weighs (events of its top category) to the power of minus this; 0: all weigh the same."""

    def __call__(self, scores: Array, own: Array, weight: Array, own_weight: Array | float = 1.0) -> Array:
        return cross_entropy(scores, own, weight, own_weight)


class Softmax(SoftmaxLoss):
    """Exact cross-entropy over the items that training holds."""

    name: Literal["softmax"] = "softmax"
    category_weight: CategoryWeight = 0.0
    """A target weighs (events of its top category) to the power of minus this; 0: all weigh the same."""


class NamedData(HalfLife):
    """Further fields of the data section."""

    unknown_rate: Fraction = 0.0
    """Share of a step's items that are ranked as if they were new; with both heads."""
    name_memory: Amount = 8192
    """The name vectors stay on the device when they take less than this (MiB); otherwise a thread gathers those of each
    block from host memory."""


class Config(Windowed):
    """Marketplace events with types and item names; also ranks items that training has not seen."""

    task: ClassVar[str] = "events"
    losses: ClassVar[tuple[type[LossConfig], ...]] = (CrossEntropy, Softmax)
    sections: ClassVar[dict[str, type[Section]]] = {"data": NamedData}
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "adam", "learning_rate": 0.001, "tables": "rowwise_adagrad"}
    }

    name: Literal["merrec"] = "merrec"
    layers: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (128, 128)
    """Units of each GRU layer, from input to output."""
    embedding_dim: Count = 128
    """Width of the item vectors."""
    head: Literal["items", "text", "both"] = "both"
    """Items are ranked by vectors of their own, by their names, so that those that training has not seen can be ranked
    too, or by the sum."""
    name_dim: Count = 128
    """Width that name vectors are projected to before the GRU."""
    text_dim: Count = 128
    """Width of the space in which queries meet the names of items."""
    event_dim: Count = 32
    """Width of the vectors of types of events."""
    item_fields: tuple[Literal["c0", "c1", "c2", "brand", "condition", "price"], ...] = ()
    """Fields of the item that are read with its name: levels of the category, brand, condition, price."""
    field_dim: Count = 16
    """Width of the vectors of these fields' values."""
    dropout_embedding: Fraction = 0.0
    """Dropout on the input vectors."""
    dropout_hidden: Fraction = 0.0
    """Dropout on the output of each GRU layer."""
    temperature: Positive | None = None
    """Scores of the text head are this times the cosine of query and item vectors (null: inner products)."""
    init_std: Positive | None = None
    """Standard deviation of the table's initial vectors (null: 1 / sqrt(embedding_dim)); with head items."""

    def check(self, config: Experiment) -> None:
        if self.head != "items" and self.init_std is not None:
            raise ValueError(f"model.init_std: belongs to model.head items, found {self.head}; leave it out")
        if self.head == "items" and self.temperature is not None:
            raise ValueError("model.temperature: belongs to model.head text or both, found items; leave it out")
        if self.head != "both" and NamedData.of(config.data).unknown_rate:
            raise ValueError(f"data.unknown_rate: belongs to model.head both, found {self.head}; leave it out")
        if config.loss.category_weight and "c0" not in self.item_fields:
            raise ValueError("loss.category_weight: needs the top category; add c0 to model.item_fields")
        if len(set(self.item_fields)) < len(self.item_fields):
            raise ValueError(f"model.item_fields: one is named twice in {', '.join(self.item_fields)}; name each once")
        super().check(config)

    def dense(self, config: Experiment) -> str:
        return "" if self.head == "text" else super().dense(config)
