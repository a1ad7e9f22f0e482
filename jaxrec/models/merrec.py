"""MERRec: the next item from what was done and what it is called. GRU layers read names (frozen sentence embeddings),
types of events and, on request, fields of the items; the query after each event meets the items in one or both of two
heads:

    items   a linear layer over the items that training holds, w_i q + b_i; an item that training has not seen is last
    text    the query in a space into which name vectors are projected: any item with a name can be ranked
    both    their sum, by concatenated vectors. w_i and b_i begin at 0, to learn what the name does not say; new items
            take a common bias, trained on items whose row is left out (``data.unknown_rate``)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, Fraction, LossConfig, Positive, Section
from jaxrec.data.dataset import Sessions
from jaxrec.data.items import Catalogue
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.packed import PackedBlock, packed_feed
from jaxrec.losses.sampled import Sampled, SampledLoss, Step, cross_entropy, scores_of
from jaxrec.losses.softmax import SoftmaxLoss
from jaxrec.models import base
from jaxrec.models.base import Loss
from jaxrec.models.packed import Grid, HalfLife, Windowed, drop, normal, read_few, unit
from jaxrec.ops.gru import gru_params, gru_sequence
from jaxrec.ops.heads import NAMES_AT_ONCE, Heads, texts_by_item
from jaxrec.ops.parallel import MODEL, ONE, Placement
from jaxrec.ops.rows import DealtRows, Table, deal, look_up, mesh_of, rounded, rows_at
from jaxrec.ops.tables import Reads, RowPlan, Tables, TableSpec, glorot_like

UNTRAINED = -1e30  # the item head's score of what it was not trained on; finite, so that sums stay numbers
SIDE_BY_SIDE = 2**31  # bytes of the vectors of all items, beyond which there is no room for them beside the table
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
    """Items are ranked by vectors of their own, by names, also those that training has not seen, or by the sum."""
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
    temperature: Positive | None = None
    """Scores of the text head are this times the cosine of query and item vectors (null: inner products)."""
    init_std: Positive | None = None
    """Standard deviation of the table's initial vectors (null: 1 / sqrt(embedding_dim)); with head items."""

    def check(self, config: Experiment) -> None:
        if self.head == "items" and self.temperature is not None:
            raise ValueError("model.temperature: belongs to model.head text or both, found items; leave it out")
        if config.mesh.model > 1 and config.loss.name == "softmax":
            raise ValueError("mesh.model: deals the rows of tables, which merrec's softmax over the items of training "
                             "reads whole; set it to 1, or loss.name to cross_entropy")  # fmt: skip
        if self.head != "both" and NamedData.of(config.data).unknown_rate:
            raise ValueError(f"data.unknown_rate: belongs to model.head both, found {self.head}; leave it out")
        if config.loss.category_weight and "c0" not in self.item_fields:
            raise ValueError("loss.category_weight: needs the top category; add c0 to model.item_fields")
        super().check(config)

    def dense(self, config: Experiment) -> str:
        return "" if self.head == "text" else super().dense(config)


class Encoder(nn.Module):
    model: Config
    events: int  # how many types of events there are

    @nn.compact
    def __call__(self, names: Array, fields: Array, event: Array, grid: Grid, train: bool) -> list[Array | None]:
        """The queries of both heads, float32[P, D] and float32[P, T], or None; from float[R, W, dim] names, float32[R,
        W, K] vectors of all fields side by side, and int32[R, W] events."""
        on, model = grid.on, self.model
        kernel = self.param("name_kernel", glorot_like, (names.shape[-1], model.name_dim))
        table = self.param("event", nn.initializers.normal(model.event_dim**-0.5), (self.events, model.event_dim))
        x = jnp.concatenate([project(kernel, names, on), read_few(table, event, on), fields], axis=-1)
        x = drop(self, x, model.dropout_embedding, train)
        reset = grid.start == jnp.arange(event.shape[1])
        width = x.shape[-1]
        for i, units in enumerate(model.layers):
            x = gru_sequence(gru_params(self, f"gru_{i}", width, units), x, reset, on)
            x, width = drop(self, x, model.dropout_hidden, train), units
        state = grid.scored(x)
        heads = (("item_query", model.embedding_dim, "text"), ("text_query", model.text_dim, "items"))
        return [
            None if model.head == other else on.product(state, self.param(name, glorot_like, (width, dim)))
            for name, dim, other in heads
        ]


def project(kernel: Array, names: Array, on: Placement = ONE) -> Array:
    """float32[..., T]: float[..., dim] name vectors times a float32[dim, T] kernel."""
    return on.product(names.astype(jnp.float32), kernel)


class Known(NamedTuple):
    # float16[U, dim], of the distinct names, to be rounded to bfloat16: of a table of that XLA's CPU compiler makes one
    # of float32, three times the memory, wherever rows are read.
    names: Table
    name_of: Table  # int32[V], the name of each item; -1 for none
    codes: Table  # int32[V, F], rows of the table of fields
    live: tuple[Any, Any] | None  # int32[V] twice, since and until when an item is live; None: the data do not say


class Constants(NamedTuple):
    known: Known
    sampling: Any  # of a sampled loss
    trained: Any  # of a softmax: int32[T], items that training holds
    place: Any  # of a softmax: int32[V], where such an item stands among them
    weight: Array | None  # float32[V], of a target in the loss; None where all weigh the same


class MERRec(base.Model):
    """MERRec as the loop sees it, for so many types of events."""

    def __init__(self, config: Experiment, catalogue: Catalogue, events: int) -> None:
        model, loss, data = Config.of(config.model), config.loss, NamedData.of(config.data)
        self._model, self._data, self._loss, self._deals = model, data, loss, config.mesh.model > 1
        self.catalogue, self.window = catalogue, model.window
        self.has_items, self.has_text = model.head != "text", model.head != "items"
        self._ranking = Sampled(loss, catalogue.n_items) if isinstance(loss, CrossEntropy) else None
        self._encoder = Encoder(model, events)
        self.tables: dict[str, TableSpec] = {}
        if self.has_items:
            width = model.embedding_dim + 1
            self.tables["item"] = TableSpec(catalogue.n_items, width, self._first_rows, self._ranking is None)
        if catalogue.fields:
            init = normal(model.field_dim**-0.5)
            self.tables["fields"] = TableSpec(sum(catalogue.sizes), model.field_dim, init, True)

    def _first_rows(self, key: Array, shape: tuple[int, int]) -> Array:
        """float32[V, D + 1], with the bias as the last column."""
        if self.has_text:
            return jnp.zeros(shape)
        return normal(self._model.init_std or (shape[1] - 1) ** -0.5)(key, shape).at[:, -1].set(0.0)

    def feed(self, sessions: Sessions, plan: Plan) -> Feed:
        model, spans = self._model, self.catalogue.spans
        stride, half_life = (model.stride, self._data.half_life) if plan.training else (1, None)
        times = None if spans is None else spans.seconds(sessions.times)
        return packed_feed(sessions, model.window, plan, stride, half_life, True, times)

    def init(self, key: Array) -> Any:
        model, catalogue = self._model, self.catalogue
        event, (first, second) = jnp.zeros((1, model.window), jnp.int32), jax.random.split(key)
        names = jnp.zeros((1, model.window, catalogue.dim))
        fields = jnp.zeros((1, model.window, len(catalogue.fields) * model.field_dim))
        grid = Grid(event, jnp.zeros(1, jnp.int32))
        match = {"match": glorot_like(second, (catalogue.dim, model.text_dim))} if self.has_text else {}
        bias = {"new_bias": jnp.zeros(())} if self.has_text and self.has_items else {}
        return {"encoder": self._encoder.init(first, names, fields, event, grid, False)["params"], **match, **bias}

    def constants(self, counts: np.ndarray) -> Constants:
        sampling, trained, place, weight = self._ranking and self._ranking.constants(counts), None, None, None
        if self._ranking is None:
            trained = jnp.asarray(np.flatnonzero(counts), jnp.int32)
            place = jnp.asarray(np.cumsum(counts > 0) - 1, jnp.int32)
        if self._loss.category_weight:  # of which the mean over training's events is 1
            category = self.catalogue.codes[:, self.catalogue.fields.index("c0")]
            events = np.bincount(category, weights=counts)[category]
            by_item = np.maximum(events, 1.0) ** -self._loss.category_weight
            weight = jnp.asarray(by_item / np.average(by_item, weights=counts), jnp.float32)
        return Constants(self.known, sampling, trained, place, weight)

    @cached_property
    def known(self) -> Known:
        """Where rows are dealt over devices on the host: no device has room for all."""
        catalogue, spans = self.catalogue, self.catalogue.spans
        live = None if spans is None else (spans.listed, spans.sold)
        known: Any = (catalogue.vectors, catalogue.name_of, catalogue.codes + catalogue.first_codes, live)
        return Known(*jax.tree.map(np.asarray if self._deals else jnp.asarray, known))

    def dealt(self, constants: Constants, whole: Callable[[Any], Any], by_rows: Callable[[Any], Any]) -> Constants:
        return jax.tree.map(by_rows, constants)

    def steps(self, constants: Constants, block: PackedBlock, keys: Array, on: Placement = ONE) -> Step:
        return Step(block, self._ranking and self._ranking.draw(constants.sampling, block.target, keys, on))

    def planned(self, steps: Step, plans: dict[str, RowPlan], on: Placement) -> Step:
        if self._ranking is None or "item" not in plans:
            return steps
        return steps._replace(drawn=self._ranking.counted(steps, plans["item"], on))

    def reads(self, step: Step) -> dict[str, Reads]:
        if self._ranking is None or not self.has_items:
            return {}
        return {"item": self._ranking.reads(step.block.target, step.block.weight > 0, step.drawn)}

    def loss(self, params: Any, tables: Tables, carry: tuple[()], step: Step, key: Array, constants: Any) -> Loss:
        block, known, on = step.block, constants.known, tables.on
        drop_key, new_key = jax.random.split(key)
        queries = self._block_queries(params, tables, known, block, drop_key)
        weight = block.weight if constants.weight is None else block.weight * rows_at(constants.weight, block.target)
        if self._ranking:
            total = jnp.sum(weight * self._sampled_losses(params, tables, queries, step, new_key, known))
        else:
            rows, texts = tables.whole("item")[constants.trained] if self.has_items else None, None
            if self.has_text:
                of_names = project(params["match"], rounded(known.names, jnp.bfloat16), on)
                texts = look_up(of_names, known.name_of[constants.trained])
            columns = self._columns(params, rows, texts, new_key)
            total = self._loss(queries, columns, constants.place[block.target], weight, None, on)
        return total / len(block.target), (carry, total)

    def _sampled_losses(
        self, params: Any, tables: Tables, queries: Array, step: Step, key: Array, known: Known
    ) -> Array:  # fmt: skip
        """float32[P]: over the step's targets and drawn items, each once; a query's own target is no negative."""
        assert self._ranking is not None
        block, drawn, on = *step, tables.on
        live = block.weight > 0
        ids = jnp.concatenate([on.whole(read.ids) for read in self._ranking.reads(block.target, live, drawn).values()])
        rows, slot = tables.columns("item", "target", "negative") if self.has_items else (None, None)
        texts = None
        if self.has_text:
            inside = ids < len(known.name_of)
            name = jnp.where(inside, rows_at(known.name_of, jnp.where(inside, ids, 0)), -1)
            names = look_up(known.names, name, jnp.bfloat16)
            # Each device projects its share of the names, and they exchange what is a third as wide.
            texts = on.whole(on.dealt(project(params["match"], on.dealt(names), on)))
        scores = scores_of(queries, self._columns(params, rows, texts, key, len(block.target)), on)
        weight, own_weight = self._ranking.weights(slot, live, drawn, on)
        own = on.dealt(on.whole(jnp.arange(len(ids)) if slot is None else slot)[: len(live)])
        is_own = own[:, None] == jnp.arange(len(ids))
        others = on.dealt(jnp.where(block.target[:, None] == ids, 0.0, weight))
        if self._loss.candidates == "live" and known.live is not None:
            (listed, sold), at = known.live, block.asked[:, None]
            inside = jnp.minimum(ids, len(listed) - 1)
            now = (rows_at(listed, inside) <= at) & (at < rows_at(sold, inside))
            others = jnp.where(now, others, 0.0)
        losses = self._loss(scores, own, jnp.where(is_own, own_weight[:, None], others), own_weight)
        return jnp.where(live, losses, 0.0)

    def _columns(
        self, params: Any, table: Array | None, texts: Array | None, key: Array | None = None, targets: int = 0
    ) -> Array:
        """float32[n, Q]: vectors of items from their rows, float32[n, D + 1], and their projected names. In training
        ``key`` draws the rows that are left out, for a step's ``targets``, the first, last."""
        if table is not None and texts is not None and key is not None and self._data.unknown_rate:
            new = jax.random.bernoulli(key, self._data.unknown_rate, (len(table), 1))
            new = jnp.roll(new, targets, axis=0) if targets else new
            table = jnp.where(new, self._new_row(params, table.shape[1]), table)
        if texts is not None and self._model.temperature is not None:
            texts = unit(texts)
        return jnp.concatenate([part for part in (table, texts) if part is not None], axis=1)

    def _new_row(self, params: Any, width: int) -> Array:
        """What stands for the row of an item that training has not seen; without the text head such items are last."""
        return jnp.zeros(width).at[-1].set(params["new_bias"] if self.has_text else UNTRAINED)

    def _block_queries(
        self, params: Any, tables: Tables, known: Known, block: PackedBlock, key: Array | None = None
    ) -> Array:  # fmt: skip
        on, some, at = tables.on, block.input >= 0, jnp.maximum(block.input, 0)
        name = jnp.where(some, rows_at(known.name_of, at), -1)
        codes = jnp.where(some[..., None], rows_at(known.codes, at), -1)
        names = on.dealt(look_up(known.names, name, jnp.bfloat16))
        grid = Grid(block.start, block.slot, on)
        return on.dealt(self._queries(params, tables, names, codes, block.event, grid, key))

    def _queries(
        self, params: Any, tables: Tables, names: Array, codes: Array, event: Array, grid: Grid, key: Array | None
    ) -> Array:
        """float32[P, Q], with dropout where there is a key for it."""
        shape = (*codes.shape[:-1], codes.shape[-1] * self._model.field_dim)
        fields = tables.rows("fields", codes).reshape(shape) if codes.shape[-1] else jnp.zeros(shape)
        rngs, params = {} if key is None else {"dropout": key}, {"params": params["encoder"]}
        heads: Any = self._encoder.apply(params, names, fields, event, grid, key is not None, rngs=rngs)
        (of_items, of_texts), temperature = heads, self._model.temperature
        parts = [] if of_items is None else [of_items, jnp.ones((len(of_items), 1))]
        if of_texts is not None:
            parts.append(of_texts if temperature is None else temperature * unit(of_texts))
        return jnp.concatenate(parts, axis=1)

    def encode(self, weights: dict[str, Any], known: Known, block: PackedBlock) -> Array:
        """float32[S, P, Q], a query vector for each target, whose products with ``vectors`` rank."""
        params, tables = weights["params"], Tables(weights["tables"])
        return jax.lax.map(lambda step: self._block_queries(params, tables, known, step), block)

    def last_query(self, weights: dict[str, Any], names: Array, codes: Array, event: Array, length: Array) -> Array:
        """float32[B, Q]: the query after the last of int32[B] events of each sequence, from float[B, N, dim] name
        vectors (zeros for none), int32[B, N, F] codes as of ``Catalogue.codes`` and int32[B, N] events."""
        slot = jnp.arange(len(event)) * event.shape[1] + jnp.maximum(length - 1, 0)
        grid, names = Grid(jnp.zeros_like(event), slot), rounded(names, jnp.bfloat16)  # as in training
        codes = codes + self.catalogue.first_codes
        return self._queries(weights["params"], Tables(weights["tables"]), names, codes, event, grid, None)

    def texts(self, weights: dict[str, Any], names: Array) -> Array | None:
        """float32[n, T]: float[n, dim] name vectors in the space of the text head; None where there is none."""
        return project(weights["params"]["match"], rounded(names, jnp.bfloat16)) if self.has_text else None

    def _units(self, weights: dict[str, Any], names: Array) -> Array:
        """``texts``, as they are multiplied."""
        texts = self.texts(weights, names)
        assert texts is not None
        return texts if self._model.temperature is None else unit(texts)

    def vectors(self, weights: dict[str, Any], rows: Array | None, trained: Array, texts: Array | None) -> Array:
        """float32[n, Q]: what queries are multiplied with to rank items, from their float32[n, D + 1] rows of the table
        and float32[n, T] ``texts``, where the model has either; bool[n], whether training holds the item."""
        if rows is not None:
            rows = jnp.where(trained[:, None], rows, self._new_row(weights["params"], rows.shape[1]))
        return self._columns(weights["params"], rows, texts)

    def catalogue_vectors(self, weights: dict[str, Any], trained: np.ndarray) -> Array | Heads | DealtRows:
        """``vectors`` of the whole catalogue: float32[V, Q], or as they lie, where there are more than ``SIDE_BY_SIDE``
        bytes of them: in the table, and of each name once. Where rows of tables are dealt so are they."""
        names, texts, new_row = self.catalogue.vectors, None, None
        if (mesh := mesh_of(weights)) is not None and len(trained) >= mesh.shape[MODEL]:
            return self._dealt_vectors(weights, trained, mesh)
        if self.has_text:
            of_names = jax.jit(self._units)
            texts = jnp.concatenate([of_names(weights, jnp.asarray(np.asarray(names[start : start + NAMES_AT_ONCE])))
                                     for start in range(0, len(names), NAMES_AT_ONCE)])  # fmt: skip
        if (rows := weights["tables"].get("item")) is not None:
            new_row = self._new_row(weights["params"], rows.shape[1])
        heads = Heads(rows, jnp.asarray(trained), new_row, texts, jnp.asarray(self.catalogue.name_of))
        return heads if 4 * len(heads) * heads.width > SIDE_BY_SIDE else jax.jit(Heads.whole)(heads)

    def _dealt_vectors(self, weights: dict[str, Any], trained: np.ndarray, mesh: Mesh) -> DealtRows:
        """``catalogue_vectors`` where each device has the rows and the texts of its own items."""
        params, shards, rows, texts, new_row = weights["params"], mesh.shape[MODEL], None, None, None
        if self.has_text:
            names, name_of = (deal(np.asarray(part), mesh) for part in self.known[:2])
            texts = texts_by_item(self._units, {"params": params}, names, name_of)
        if self.has_items:
            rows = weights["tables"]["item"].array
            new_row = jnp.tile(self._new_row(params, rows.shape[1]), (shards, 1))  # one for each device
        heads = Heads(rows, deal(trained, mesh).array, new_row, texts, None)
        return DealtRows(heads, len(trained), mesh)


Model = MERRec
