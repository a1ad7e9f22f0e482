"""MERRec: the next item from what was done and what it is called.

A step reads the name of an item as a frozen sentence embedding, what was done with it (viewed, liked, bought, ...) and,
on request, fields of the item; GRU layers read a sequence of them once, with gradients through all of it. A query after
each event meets the items in one or both of two heads:

    items   a linear layer over the items that training holds, w_i q + b_i; an item that training has not seen is last
    text    the query in a space into which name vectors are projected: any item with a name can be ranked
    both    their sum. The rows w_i and b_i begin at 0, so that they learn what the name does not say, and an item that
            training has not seen takes a common bias of new items, which is trained on items whose row is left out
            (``data.unknown_rate`` of them in each step)

Scores of either head are products of a query and an item's vector (their concatenation for both), so that ranking, full
and sampled softmax need not know of heads.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import Config as Experiment
from jaxrec.data.catalogue import Catalogue
from jaxrec.data.dataset import Sessions
from jaxrec.errors import UserError
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.packed import PackedBlock, packed_feed
from jaxrec.losses.candidates import scores_of
from jaxrec.losses.ranking import Popularity, Sampled, Step
from jaxrec.models import base
from jaxrec.models.base import Loss, Work, row_state
from jaxrec.models.event_encoder import Known, MERRecEncoder, project
from jaxrec.models.merrec_config import Config, CrossEntropy, NamedData, Softmax, category_weight
from jaxrec.models.packed import Grid, unit
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import Reads, Tables, TableSpec, glorot_like, look_up

UNTRAINED = -1e30  # the item head's score of what it was not trained on; finite, so that sums stay numbers
MIB = 2**20
NAMES_AT_ONCE = 65_536  # projected in one call


class Constants(NamedTuple):
    """What a run's training split and catalogue say once and for all.

    Attributes:
        known: the catalogue.
        sampling: of a sampled loss.
        trained: int32[T], items that training holds; ``place`` int32[V] is where each stands among them. Of a softmax.
        weight: float32[V], of a target in the loss; None where all weigh the same.
    """

    known: Known
    sampling: Popularity | None
    trained: Array | None
    place: Array | None
    weight: Array | None


class MERRec(base.Model):
    """MERRec as the loop sees it.

    Args:
        config: of the run.
        catalogue: the items, of the data set or of the run.
        events: how many types of events there are.
    """

    def __init__(self, config: Experiment, catalogue: Catalogue, events: int) -> None:
        model, loss, data = Config.of(config.model), config.loss, NamedData.of(config.data)
        self._model, self._data, self._weight = model, data, category_weight(config)
        self.catalogue, self.window = catalogue, model.window
        self._batch, self._optimizer = config.training.batch_size, config.optimizer
        self.has_items, self.has_text = model.head != "text", model.head != "items"
        self._softmax = loss if isinstance(loss, Softmax) else None
        self._sampled = loss if isinstance(loss, CrossEntropy) else None
        self._dense = self._softmax is not None
        self._ranking = None if self._sampled is None else Sampled(self._sampled, catalogue.n_items)
        self._on_device = 2 * catalogue.vectors.size <= data.name_memory * MIB
        self._encoder = MERRecEncoder(
            model.layers, model.name_dim, events, model.event_dim,
            model.embedding_dim if self.has_items else 0, model.text_dim if self.has_text else 0,
            model.dropout_embedding, model.dropout_hidden,
        )  # fmt: skip
        self.tables: dict[str, TableSpec] = {}
        if self.has_items:
            self.tables["item"] = TableSpec(catalogue.n_items, model.embedding_dim + 1, self._first_rows, self._dense)
        if catalogue.fields:
            std = model.field_dim**-0.5
            self.tables["fields"] = TableSpec(
                sum(catalogue.sizes), model.field_dim, lambda key, shape: std * jax.random.normal(key, shape), True
            )

    def _first_rows(self, key: Array, shape: tuple[int, int]) -> Array:
        """Vectors of the item head, with the bias as the last column."""
        if self.has_text:
            return jnp.zeros(shape)
        std = self._model.init_std or (shape[1] - 1) ** -0.5
        return (std * jax.random.normal(key, shape)).at[:, -1].set(0.0)

    def check(self) -> None:
        """Refuse to train where names come with the blocks, but other items' names would be needed too."""
        if self._on_device or not self.has_text or (self._sampled and not self._sampled.n_sample):
            return
        size, allowed = 2 * self.catalogue.vectors.size / MIB, self._data.name_memory
        raise UserError(
            f"data.name_memory: {allowed} MiB do not hold the name vectors ({size:,.0f} MiB); then the text head is "
            "trained against the items of a step alone: raise it, or set loss.name cross_entropy and loss.n_sample 0"
        )

    # ---- what the loop asks ------------------------------------------------------------------------------------------

    def feed(self, sessions: Sessions, plan: Plan) -> Feed:
        model, spans = self._model, self.catalogue.spans
        stride, half_life = (model.stride, self._data.half_life) if plan.training else (1, None)
        times = None if spans is None else spans.seconds(sessions.times)
        names = None if self._on_device else self.catalogue
        return packed_feed(sessions, model.window, plan, stride, half_life, True, times, names)

    def init(self, key: Array) -> Any:
        model, catalogue = self._model, self.catalogue
        event = jnp.zeros((1, model.window), jnp.int32)
        names = jnp.zeros((1, model.window, catalogue.dim))
        fields = jnp.zeros((1, model.window, len(catalogue.fields) * model.field_dim))
        first, second = jax.random.split(key)
        params = {
            "encoder": self._encoder.init(first, names, fields, event, Grid(event, jnp.zeros(1, jnp.int32)), False)[
                "params"
            ]
        }
        if self.has_text:
            params["match"] = glorot_like(second, (catalogue.dim, model.text_dim))
        if self.has_text and self.has_items:
            params["new_bias"] = jnp.zeros(())
        return params

    def constants(self, counts: np.ndarray) -> Constants:
        trained, place = None, None
        if self._dense:
            found = np.flatnonzero(counts)
            trained = jnp.asarray(found, jnp.int32)
            place = jnp.zeros(len(counts), jnp.int32).at[trained].set(jnp.arange(len(found), dtype=jnp.int32))
        sampling = self._ranking.constants(counts) if self._ranking else None
        return Constants(self.known, sampling, trained, place, self._target_weights(counts))

    @cached_property
    def known(self) -> Known:
        """The catalogue, on the device: there once, for training and evaluation."""
        catalogue = self.catalogue
        names = jnp.asarray(np.asarray(catalogue.vectors).astype(jnp.bfloat16)) if self._on_device else None
        spans = catalogue.spans
        live = None if spans is None else (jnp.asarray(spans.listed), jnp.asarray(spans.sold))
        codes = jnp.asarray(catalogue.codes + catalogue.first_codes)
        return Known(names, jnp.asarray(catalogue.name_of), codes, live)

    def _target_weights(self, counts: np.ndarray) -> Array | None:
        """float32[V]: (events of the item's top category) ** -category_weight, with mean 1 over training's events."""
        power = self._weight
        if not power:
            return None
        category = self.catalogue.codes[:, self.catalogue.fields.index("c0")]
        events = np.bincount(category, weights=counts)[category]
        weight = np.maximum(events, 1.0) ** -power
        return jnp.asarray(weight / np.average(weight, weights=counts), jnp.float32)

    def steps(self, constants: Constants, block: PackedBlock, keys: Array, on: Placement = ONE) -> Step:
        if self._ranking is None or constants.sampling is None:
            return Step(block, None)
        return Step(block, self._ranking.draw(constants.sampling, block.target, keys, on))

    def reads(self, step: Step) -> dict[str, Reads]:
        if self._ranking is None or not self.has_items:
            return {}
        return {"item": self._ranking.reads(step.block.target, step.block.weight > 0, step.drawn)}

    def loss(
        self, params: Any, tables: Tables, carry: tuple[()], step: Step, key: Array, constants: Constants
    ) -> Loss:  # fmt: skip
        block, known, on = step.block, constants.known, tables.on
        drop_key, new_key = jax.random.split(key)
        queries = self._block_queries(params, tables, known, block, drop_key)
        weight = block.weight
        if constants.weight is not None:
            weight = weight * constants.weight[block.target]
        if self._softmax and constants.trained is not None and constants.place is not None:
            rows = tables.whole("item")[constants.trained] if self.has_items else None
            columns = self._columns(params, rows, self._trained_texts(params, constants, on), new_key)
            total = self._softmax(queries, columns, constants.place[block.target], weight, None, on)
        else:
            total = jnp.sum(weight * self._sampled_losses(params, tables, queries, step, new_key, known))
        return total / len(block.target), (carry, total)

    def work(self, shape: PackedBlock, targets: float) -> Work:
        """FLOP of the encoder, the projected names that are matched, and the scores, with their derivatives. Bytes of
        the names that are read, in bfloat16, and of the item rows, or all under a full softmax, read and written once
        with their optimizer's state."""
        model, dim, positions = self._model, self.catalogue.dim, prod(shape.input.shape[1:])
        columns = self._batch + self._sampled.n_sample if self._sampled else self.catalogue.n_items
        names = (len(self.catalogue.vectors) if self._dense else columns) * self.has_text
        item = self.tables["item"].width if self.has_items else 0
        query = item + model.text_dim * self.has_text
        for_position, width = self._encoder.products(dim, len(self.catalogue.fields) * model.field_dim)
        flop = 3 * 2 * (positions * for_position + targets * width * query + names * dim * model.text_dim
                        + targets * columns * query)  # fmt: skip
        read = 2 * dim * (positions + names)
        return Work(int(flop), read + 4 * 2 * columns * (item + row_state(self._optimizer, item)))

    # ---- scores ------------------------------------------------------------------------------------------------------

    def _sampled_losses(
        self, params: Any, tables: Tables, queries: Array, step: Step, key: Array, known: Known
    ) -> Array:  # fmt: skip
        """float32[P]: cross-entropy over the step's targets and drawn items, each item of them once. Another occurrence
        of a query's own target among the others is no negative of it."""
        assert self._ranking is not None and self._sampled is not None
        block, drawn, on = *step, tables.on
        live = block.weight > 0
        ids = jnp.concatenate([on.whole(read.ids) for read in self._ranking.reads(block.target, live, drawn).values()])
        rows, slot = tables.columns("item", "target", "negative") if self.has_items else (None, jnp.arange(len(ids)))
        texts = None
        if self.has_text:
            # Each device projects its share of the names, and they exchange what is a third as wide.
            names = on.dealt(self._candidate_names(known, block, ids))
            texts = on.whole(on.dealt(project(params["match"], names, on)))
        scores = scores_of(queries, self._columns(params, rows, texts, key, len(block.target)), on)
        weight, own_weight = self._ranking.weights(slot, live, drawn, on)
        own = on.dealt(on.whole(slot)[: len(live)])
        is_own = own[:, None] == jnp.arange(len(ids))
        others = on.dealt(jnp.where(block.target[:, None] == ids, 0.0, weight))
        if self._sampled.candidates == "live" and known.live is not None:
            (listed, sold), at = known.live, block.asked[:, None]
            inside = jnp.minimum(ids, len(listed) - 1)
            others = jnp.where((listed[inside] <= at) & (at < sold[inside]), others, 0.0)
        losses = self._sampled(scores, own, jnp.where(is_own, own_weight[:, None], others), own_weight)
        return jnp.where(live, losses, 0.0)

    def _candidate_names(self, known: Known, block: PackedBlock, ids: Array) -> Array:
        """[P + N, dim]; of blocks that bring their names the targets' are at hand, and nothing else is drawn."""
        if known.names is None:
            return jnp.asarray(block.names[1])
        inside = ids < len(known.name_of)
        return look_up(known.names, jnp.where(inside, known.name_of[jnp.where(inside, ids, 0)], -1))

    def _trained_texts(self, params: Any, constants: Constants, on: Placement) -> Array | None:
        if not self.has_text or constants.trained is None:
            return None
        assert constants.known.names is not None  # refused where the data set is opened
        return look_up(project(params["match"], constants.known.names, on), constants.known.name_of[constants.trained])

    def _columns(
        self, params: Any, table: Array | None, texts: Array | None, key: Array | None = None, targets: int = 0
    ) -> Array:
        """float32[n, Q]: vectors of items from their rows, float32[n, D + 1], and their projected names.

        Args:
            key: in training, of the rows that are left out.
            targets: the first so many rows are those of a step's targets. They are drawn for last: there may be more
                of them where devices share them.
        """
        if table is not None and texts is not None and key is not None and self._data.unknown_rate:
            new = jax.random.bernoulli(key, self._data.unknown_rate, (len(table), 1))
            new = jnp.roll(new, targets, axis=0) if targets else new
            table = jnp.where(new, self._new_row(params, table.shape[1]), table)
        parts = [part for part in (table, self._scaled(texts)) if part is not None]
        return jnp.concatenate(parts, axis=1)

    def _new_row(self, params: Any, width: int) -> Array:
        """What stands for the row of an item that training has not seen."""
        return jnp.zeros(width).at[-1].set(params["new_bias"])

    def _scaled(self, texts: Array | None) -> Array | None:
        return texts if texts is None or self._model.temperature is None else unit(texts)

    def _block_queries(
        self, params: Any, tables: Tables, known: Known, block: PackedBlock, key: Array | None = None
    ) -> Array:  # fmt: skip
        on, (name, codes) = tables.on, self._inputs(known, block.input)
        names = on.dealt(block.names[0] if known.names is None else look_up(known.names, name))
        grid = Grid(block.start, block.slot, on)
        return on.dealt(self._queries(params, tables, names, codes, block.event, grid, key))

    def _inputs(self, known: Known, items: Array) -> tuple[Array, Array]:
        """The name and the rows of the fields of items; -1 for no item."""
        some, at = items >= 0, jnp.maximum(items, 0)
        return jnp.where(some, known.name_of[at], -1), jnp.where(some[..., None], known.codes[at], -1)

    def _queries(
        self, params: Any, tables: Tables, names: Array, codes: Array, event: Array, grid: Grid, key: Array | None
    ) -> Array:
        """float32[P, Q], with dropout where there is a key for it."""
        fields = jnp.zeros((*codes.shape[:-1], codes.shape[-1] * self._model.field_dim))
        if codes.shape[-1]:
            fields = tables.rows("fields", codes).reshape(fields.shape)
        rngs = {} if key is None else {"dropout": key}
        found: Any = self._encoder.apply(
            {"params": params["encoder"]}, names, fields, event, grid, key is not None, rngs=rngs
        )
        of_items, of_texts = found
        parts = []
        if of_items is not None:
            parts += [of_items, jnp.ones((len(of_items), 1))]
        if of_texts is not None:
            temperature = self._model.temperature
            parts.append(of_texts if temperature is None else temperature * unit(of_texts))
        return jnp.concatenate(parts, axis=1)

    # ---- to rank with ------------------------------------------------------------------------------------------------

    def encode(self, weights: dict[str, Any], known: Known, block: PackedBlock) -> Array:
        """float32[S, P, Q], a query vector for each target, whose products with ``vectors`` rank."""
        params, tables = weights["params"], Tables(weights["tables"])
        return jax.lax.map(lambda step: self._block_queries(params, tables, known, step), block)

    def last_query(self, weights: dict[str, Any], names: Array, codes: Array, event: Array, length: Array) -> Array:
        """float32[B, Q]: the query after the last event of each sequence.

        Args:
            names: float[B, N, dim], name vectors, zeros for none.
            codes: int32[B, N, F], as of ``Catalogue.codes``.
            event: int32[B, N].
            length: int32[B], events of each; at most ``window``.
        """
        rows, n = event.shape
        slot = jnp.arange(rows) * n + jnp.maximum(length - 1, 0)
        grid, names = Grid(jnp.zeros_like(event), slot), names.astype(jnp.bfloat16)  # as in training
        codes = codes + self.catalogue.first_codes
        return self._queries(weights["params"], Tables(weights["tables"]), names, codes, event, grid, None)

    def texts(self, weights: dict[str, Any], names: Array) -> Array | None:
        """float32[n, T]: float[n, dim] name vectors in the space of the text head; None where there is none."""
        rounded = names.astype(jnp.bfloat16)  # as in training
        return project(weights["params"]["match"], rounded) if self.has_text else None

    def vectors(self, weights: dict[str, Any], rows: Array | None, trained: Array, texts: Array | None) -> Array:
        """float32[n, Q]: what queries are multiplied with to rank items.

        Args:
            rows: float32[n, D + 1], of the table of items, where the model has one.
            trained: bool[n], whether training holds the item; without the text head the others are last.
            texts: float32[n, T], where the model has the text head.
        """
        if rows is not None:
            new = self._new_row(weights["params"], rows.shape[1]) if self.has_text else (
                jnp.zeros(rows.shape[1]).at[-1].set(UNTRAINED))  # fmt: skip
            rows = jnp.where(trained[:, None], rows, new)
        return self._columns(weights["params"], rows, texts)

    def catalogue_vectors(self, weights: dict[str, Any], trained: np.ndarray) -> Array:
        """float32[V, Q]: ``vectors`` of the whole catalogue.

        Args:
            trained: bool[V].
        """
        catalogue, texts = self.catalogue, None
        if self.has_text:
            project_part = jax.jit(self.texts)
            parts = [
                project_part(weights, jnp.asarray(np.asarray(catalogue.vectors[start : start + NAMES_AT_ONCE])))
                for start in range(0, len(catalogue.vectors), NAMES_AT_ONCE)
            ]
            texts = look_up(jnp.concatenate(parts), jnp.asarray(catalogue.name_of))
        return jax.jit(self.vectors)(weights, weights["tables"].get("item"), jnp.asarray(trained), texts)


Model = MERRec
