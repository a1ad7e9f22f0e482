"""Two towers: customers and products in one space, where the right products are close (Yi et al. 2019, section 3).

Each tower reads the fields of its side: the vector of a categorical value, the mean of a bag's, a standardised number
as it is. Both end on the unit sphere, so a score is a cosine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import Config as Experiment
from jaxrec.data.rows import Rows, Schema
from jaxrec.data.splits import RowData
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.rows import RowBlock, row_feed
from jaxrec.losses.candidates import AliasTable, alias_table, draw
from jaxrec.losses.contrastive import Contrastive, Shared, contrast
from jaxrec.losses.contrastive import Rows as Contrasted
from jaxrec.models.base import Loss, TowerModel, Work
from jaxrec.models.tower import Config, Side
from jaxrec.ops.dropout import byte_mask
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import Read, Reads, Tables
from jaxrec.ops.topk import block_size, top_items

MEMORY = 64  # MiB of scores that are held while the nearest items are looked up


class Interactions(NamedTuple):
    """What training knows beside its rows.

    Attributes:
        columns: int32[V, C], the product's coded fields by the index of the product; 0 is the unknown one.
        numbers: float32[V, M], its numbers.
        counts: int64[V], training rows of each.
        positives: uint32[users, words], ``positives.positive_bits`` of the training rows; None: not masked.
    """

    columns: np.ndarray
    numbers: np.ndarray
    counts: np.ndarray
    positives: np.ndarray | None


class Constants(NamedTuple):
    """``Interactions`` on the device, with what follows from them.

    Attributes:
        columns, numbers, positives: as there.
        negatives: what further negatives are drawn from; None where none are.
        log_expected: float32[V], the logarithm of how often an item is expected among a step's candidates.
        trained: bool[V], whether it stands in a training row.
    """

    columns: Array
    numbers: Array
    positives: Array | None
    negatives: AliasTable | None
    log_expected: Array
    trained: Array


class Step(NamedTuple):
    """A step of the feed: rows of the tables that it reads, and its candidates.

    Attributes:
        block: its rows.
        user_ids: int32[B, C], rows of the customers' table, -1 for none.
        user: int32[B], the customer.
        items: int32[B + n], the candidates: the products of the rows, and n drawn ones.
        item_ids: int32[B + n, C'], rows of the products' table.
    """

    block: RowBlock
    user_ids: Array
    user: Array
    items: Array
    item_ids: Array


class TwoTower(TowerModel):
    """Two towers as the loop sees them.

    Args:
        schema: all fields of the data set; the configuration says which are read.
    """

    def __init__(self, config: Experiment, schema: Schema) -> None:
        model, data = Config.of(config.model), RowData.of(config.data)
        fields = schema.select(data.fields).without("context")
        self._loss, self._batch = Contrastive.of(config.loss), config.training.batch_size
        self._unknown_rate = data.unknown_rate
        self.sides = {side: Side(model, fields, side) for side in ("user", "item")}
        self.n_items = next(field.size for field in schema.fields if field.name == schema.item)
        self._pool = min(self._loss.hard_pool, self.n_items - 2) if self._loss.hard_negatives else 0
        self.tables = {name: side.table for name, side in self.sides.items() if side.coded.fields}

    def feed(self, split: Rows, plan: Plan) -> Feed:
        """Rows whose columns are the customer's coded fields, then the customer and the product by index."""
        return row_feed(split, plan)

    def init(self, key: Array) -> Any:
        keys = jax.random.split(key, 2)
        return {name: side.variables(one)["params"] for one, (name, side) in zip(keys, self.sides.items(), strict=True)}

    def carry(self, lanes: int) -> Any:
        key = jax.random.key(0)  # statistics begin at 0 and 1 whatever the key
        carry: dict[str, Any] = {
            "statistics": {n: side.variables(key).get("batch_stats", {}) for n, side in self.sides.items()}
        }
        if self._pool:
            carry |= {"steps": jnp.zeros((), jnp.int32), "near": jnp.zeros((self.n_items, self._pool), jnp.int32)}
        return carry

    def constants(self, known: Interactions) -> Constants:
        counts = np.array(known.counts, np.float64)
        counts[0] = 0  # the unknown product stands for many, and is none
        share = counts / max(counts.sum(), 1)
        drawn = np.where(counts > 0, np.maximum(counts, 1) ** self._loss.sample_alpha, 0)
        n = self._loss.n_sample
        expected = self._batch * share + n * drawn / max(drawn.sum(), 1e-9)
        return Constants(
            jnp.asarray(known.columns),
            jnp.asarray(known.numbers),
            None if known.positives is None else jnp.asarray(known.positives),
            alias_table(counts.astype(np.int64), self._loss.sample_alpha) if n else None,
            jnp.asarray(np.log(np.where(counts > 0, np.maximum(expected, 1e-9), 1.0)), jnp.float32),
            jnp.asarray(counts > 0),
        )

    def steps(self, constants: Constants, block: RowBlock, keys: Array, on: Placement = ONE) -> Step:
        """The candidates of each step, and what it reads of the tables; a share of the known values becomes the unknown
        one, so that its vector learns to stand for any."""
        user, item = block.columns[..., -2], block.columns[..., -1]
        streams = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        if constants.negatives is not None:
            table = constants.negatives
            item = jnp.concatenate(
                [item, jax.vmap(lambda key: draw(table, key, self._loss.n_sample))(streams[:, 0])], 1
            )
        columns = self._with_unknown(block.columns[..., :-2], streams[:, 1])
        item_columns = self._with_unknown(constants.columns[item], streams[:, 2])
        # What stands behind an epoch's last row reads nothing: it would move rows of a table that is not dense.
        live = jnp.pad(block.weight > 0, ((0, 0), (0, item.shape[1] - user.shape[1])), constant_values=True)
        return Step(
            block,
            jnp.where(block.weight[..., None] > 0, self.sides["user"].stack.ids(columns), -1),
            user,
            item,
            jnp.where(live[..., None], self.sides["item"].stack.ids(item_columns), -1),
        )

    def _with_unknown(self, columns: Array, keys: Array) -> Array:
        if not self._unknown_rate or not columns.shape[-1]:
            return columns
        kept = jax.vmap(lambda key: byte_mask(key, columns.shape[1:], self._unknown_rate) > 0)(keys)
        return jnp.where(kept | (columns < 0), columns, 0)

    def reads(self, step: Step) -> dict[str, Reads]:
        ids = {"user": step.user_ids, "item": step.item_ids}
        return {name: {"row": Read(ids[name])} for name in self.tables}

    def loss(self, params: Any, tables: Tables, carry: Any, step: Step, key: Array, constants: Constants) -> Loss:
        """Mean contrastive loss of the step's rows, each against the other rows' products, drawn and hard ones."""
        keys, live, on = jax.random.split(key, 3), step.block.weight > 0, tables.on
        if self._pool:
            carry = self._refreshed(params, tables, carry, constants)
        queries, user_statistics = self.sides["user"].train(
            params["user"], carry["statistics"]["user"],
            self._inputs(tables, "user", step.user_ids, step.block.numbers), live | ~jnp.any(live), keys[0], on,
        )  # fmt: skip
        hard = self._hard(carry, step, keys[2])  # [B, h]
        vectors, item_statistics = self._candidates(params, tables, carry, step, hard, constants, keys[1])

        b, c = len(live), len(step.items)
        near_vectors = vectors[c:].reshape(b, hard.shape[1], vectors.shape[1])
        rows = on.dealt(Contrasted(queries, vectors[:b], step.user, step.items[:b], hard, near_vectors))
        real = jnp.pad(live, (0, c - b), constant_values=True)
        shared = Shared(vectors[:c], step.items, real, constants.log_expected, constants.positives)
        total = contrast(self._loss, on, rows, live, on.whole(shared))
        carry = carry | {"statistics": {"user": user_statistics, "item": item_statistics}}
        return total / b, (carry, total)

    def work(self, shape: RowBlock, targets: float) -> Work:
        """FLOP of towers and scores with their derivatives; bytes of the scores, written once and read twice."""
        batch, drawn, hard = shape.weight.shape[1], self._loss.n_sample, self._loss.hard_negatives
        user, item = (side.products for side in self.sides.values())
        scores = batch + drawn + hard
        flop = 3 * 2 * (batch * (user + (1 + hard) * item + scores * self.sides["item"].output) + drawn * item)
        return Work(flop, 4 * 3 * batch * scores)

    def _inputs(self, tables: Tables, side: str, ids: Array, numbers: Array, read: str | None = "row") -> Array:
        """float32[n, features]: of a read, or of any ids of a dense table."""
        vectors = jnp.zeros((0,))
        if side in self.tables:
            vectors = tables.vectors(side, read) if read else tables.rows(side, ids)
        return tables.on.dealt(self.sides[side].inputs(vectors, ids, numbers))

    def _candidates(
        self, params: Any, tables: Tables, carry: Any, step: Step, hard: Array, constants: Constants, key: Array
    ) -> tuple[Array, Any]:
        """float32[C + B h, output] of the candidates and the hard negatives, normalised over the rows' products."""
        x = self._inputs(tables, "item", step.item_ids, constants.numbers[step.items])
        live = step.block.weight > 0
        counted = jnp.arange(len(x)) < len(live)
        counted &= jnp.pad(live | ~jnp.any(live), (0, len(x) - len(live)))
        if hard.shape[1]:
            flat = hard.reshape(-1)
            ids = self.sides["item"].stack.ids(constants.columns[flat])
            x = jnp.concatenate([x, self._inputs(tables, "item", ids, constants.numbers[flat], None)])
            counted = jnp.pad(counted, (0, len(flat)))
        return self.sides["item"].train(params["item"], carry["statistics"]["item"], x, counted, key, tables.on)

    # ---- hard negatives ------------------------------------------------------------------------------------------

    def _hard(self, carry: Any, step: Step, key: Array) -> Array:
        """int32[B, h]: items drawn from those nearest to each row's."""
        b = len(step.user)
        if not self._pool:
            return jnp.zeros((b, 0), jnp.int32)
        place = jax.random.randint(key, (b, self._loss.hard_negatives), 0, self._pool)
        return jnp.take_along_axis(carry["near"][step.items[:b]], place, axis=1)

    def _refreshed(self, params: Any, tables: Tables, carry: Any, constants: Constants) -> Any:
        """The carry with the index of nearest items looked up anew every ``refresh_steps`` steps (Xiong et al. 2021,
        "Approximate nearest neighbor negative contrastive learning for dense text retrieval", section 4)."""
        table = tables.whole("item") if "item" in self.tables else None
        params, table = jax.lax.stop_gradient((params["item"], table))

        def look() -> Array:
            statistics = carry["statistics"]["item"]
            vectors = self.sides["item"].encode(params, statistics, table, constants.columns, constants.numbers)
            own = jnp.arange(self.n_items, dtype=jnp.int32)[:, None]
            # What no row holds would be nothing but wrong: a further column puts it last.
            last = jnp.where(constants.trained, 0.0, -10.0)[:, None]
            queries, items = (jnp.concatenate([vectors, more], axis=1) for more in (jnp.ones_like(last), last))
            near, scores = top_items(queries, items, own, self._pool, block_size(self.n_items, MEMORY))
            return jnp.where(scores > -5.0, near, 0)

        near = jax.lax.cond(carry["steps"] % self._loss.refresh_steps == 0, look, lambda: carry["near"])
        return carry | {"near": near, "steps": carry["steps"] + 1}

    # ---- to evaluate and serve -----------------------------------------------------------------------------------

    def encode(self, side: str, weights: dict[str, Any], columns: Array, numbers: Array) -> Array:
        """float32[n, output] unit vectors of one side: int32[n, C] and float32[n, M] of its fields.

        Args:
            weights: ``{params, tables, statistics}``.
        """
        table = weights["tables"].get(side)
        return self.sides[side].encode(weights["params"][side], weights["statistics"][side], table, columns, numbers)


Model = TwoTower
