"""Two towers: customers and products in one space, where the right products are close (Yi et al. 2019, section 3). Each
reads the fields of its side (a number as it is) and ends on the unit sphere, so a score is a cosine."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, Fraction, LossConfig
from jaxrec.data.dataset import Rows, Schema
from jaxrec.data.splits import RowData
from jaxrec.feeds.base import Feed, Plan, RowBlock, row_feed
from jaxrec.losses.contrastive import Contrastive, Shared, Triplet, contrast
from jaxrec.losses.contrastive import Rows as Contrasted
from jaxrec.models.base import Loss, TowerModel
from jaxrec.models.fields import RowConfig, Stack, byte_mask, with_unknown
from jaxrec.models.packed import normal
from jaxrec.ops.alias import AliasTable, alias_table, draw
from jaxrec.ops.batch_norm import batch_norm
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.rows import look_up
from jaxrec.ops.tables import Read, Reads, Tables, TableSpec
from jaxrec.ops.topk import BlockSize, block_size, top_items

MOMENTUM = 0.9  # of the running statistics
MEMORY = 64  # MiB of scores that are held while the nearest items are looked up
CELLS = 2**25  # of them on GPUs


class Config(RowConfig):
    """Rows of users and items: a vector for each, also for users and items that are new."""

    task: ClassVar[str] = "retrieval"
    losses: ClassVar[tuple[type[LossConfig], ...]] = (Triplet, Contrastive)
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"optimizer": {"name": "adam", "learning_rate": 0.001}}

    name: Literal["two_tower"] = "two_tower"
    hidden: Annotated[tuple[Count, ...], Field(max_length=8)] = (64,)
    """Units of the hidden layers of each tower."""
    output_dim: Count = 32
    """Width of the space in which customers and products meet."""
    norm: Literal["none", "batch"] = "batch"
    """Normalisation after each hidden layer."""
    dropout_hidden: Fraction = 0.2
    """Dropout on each hidden layer."""

    def check(self, config: Experiment) -> None:
        if Contrastive.of(config.loss).hard_negatives and (needs := self.dense(config)):
            raise ValueError(f"loss.hard_negatives: needs {needs}; set it to 0")
        if Contrastive.of(config.loss).hard_negatives and config.mesh.model > 1:
            raise ValueError(f"loss.hard_negatives: looks nearest items up in whole tables, and mesh.model "
                             f"{config.mesh.model} deals their rows; set one to 0, or the other to 1")  # fmt: skip


class Norm(nn.Module):
    """``nn.BatchNorm`` in training, and dropout behind it, as GPUs take them; ``share`` as of ``batch_norm``."""

    @nn.compact
    def __call__(self, x: Array, share: Array, keep: Array | None) -> Array:
        width = x.shape[1]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        result, *statistics = batch_norm(x, share, keep, scale, bias)
        for name, new in zip(("mean", "var"), statistics, strict=True):
            running = self.variable("batch_stats", name, jnp.zeros, width)
            running.value = MOMENTUM * running.value + (1 - MOMENTUM) * new
        return result


class Tower(nn.Module):
    """An MLP onto the unit sphere; each hidden layer is followed by ReLU, batch normalisation and dropout."""

    model: Config

    @nn.compact
    def __call__(self, x: Array, counted: Array | None, on: Placement = ONE) -> Array:
        """float32[n, output] unit vectors of float32[n, features]; training normalises over bool[n] ``counted``
        rows, or on GPUs over the float32[n] share of each."""
        model = self.model

        def dense(units: int) -> nn.Dense:
            return nn.Dense(units, dot_general=lambda inputs, kernel, *_, **__: on.product(inputs, kernel))

        if counted is not None and model.dropout_embedding:
            x = x * byte_mask(self.make_rng("dropout"), x.shape, model.dropout_embedding)
        for i, units in enumerate(model.hidden):
            x = nn.relu(dense(units)(x))
            if model.norm == "batch" and counted is not None and counted.dtype != bool:
                rate = model.dropout_hidden
                keep = byte_mask(self.make_rng("dropout"), x.shape, rate) if rate else None
                x = Norm(name=f"BatchNorm_{i}")(x, counted, keep)
                continue
            if model.norm == "batch":
                norm = nn.BatchNorm(use_running_average=counted is None, momentum=MOMENTUM)
                x = norm(x, mask=None if counted is None else counted[:, None])
            if counted is not None and model.dropout_hidden:
                x = x * byte_mask(self.make_rng("dropout"), x.shape, model.dropout_hidden)
        x = dense(model.output_dim)(x)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=1, keepdims=True), 1e-12))


class Side:
    """One side's fields, table and tower."""

    def __init__(self, model: Config, fields: Schema, side: str) -> None:
        schema = fields.side(side)
        self.coded = replace(schema, fields=schema.coded)
        self.stack, dim = Stack.of(self.coded), model.embedding_dim
        features = dim * len(self.coded.fields) + len(schema.numerical)
        self._tower, self._features = Tower(model), features
        init = normal(model.init_std or dim**-0.5)

        def begin(key: Array, shape: tuple[int, int]) -> Array:
            return init(key, shape).at[self.stack.unknown].set(0.0)  # where nothing trains them, they say nothing

        self.table = TableSpec(self.stack.rows, dim, begin, dense=model.table == "dense")

    def variables(self, key: Array) -> Any:
        """The tower's parameters (``params``) and statistics (``batch_stats``, where it has any)."""
        return self._tower.init(key, jnp.zeros((1, self._features)), None)

    def inputs(self, vectors: Array, ids: Array, numbers: Array) -> Array:
        """float32[n, features] from float32[n, C, D] vectors of int32[n, C] ids, and float32[n, M]."""
        if not self.coded.fields:
            return numbers
        folded = self.stack.fold(vectors, ids, jnp.zeros((len(numbers), 0))).reshape(len(numbers), -1)
        return jnp.concatenate([folded, numbers], axis=1)

    def apply(
        self, params: Any, statistics: Any, x: Array, counted: Array | None = None, key: Array | None = None,
        on: Placement = ONE,
    ) -> tuple[Array, Any]:  # fmt: skip
        """float32[n, output], and the new statistics; ``counted`` as the tower's."""
        variables: Any = {"params": params, **({"batch_stats": statistics} if statistics else {})}
        rngs = {} if key is None else {"dropout": key}
        found: Any = self._tower.apply(variables, x, counted, on, rngs=rngs, mutable=["batch_stats"])
        return found[0], found[1].get("batch_stats", statistics)

    def encode(self, params: Any, statistics: Any, table: Array | None, columns: Array, numbers: Array) -> Array:
        """float32[n, output] from int32[n, C] and float32[n, M], as it is evaluated."""
        ids = self.stack.ids(columns)
        vectors = look_up(table, ids) if table is not None else jnp.zeros((0,))
        return self.apply(params, statistics, self.inputs(vectors, ids, numbers))[0]


class Packed(NamedTuple):
    """Parameters, those of one axis (biases, scales) one behind the other: their update is one kernel. Matrices stay
    apart, as products would wait for a copy of each."""

    matrices: list[Array]
    vectors: Array  # float32[N]


def _is_vector(leaf: Any) -> bool:
    return bool(leaf.size == max(leaf.shape, default=1))


def _packed(params: Any) -> Packed:
    leaves = jax.tree.leaves(params)
    vectors = jnp.concatenate([leaf.reshape(-1) for leaf in leaves if _is_vector(leaf)])
    return Packed([leaf for leaf in leaves if not _is_vector(leaf)], vectors)


def _unpacked(params: Any, like: Any) -> Any:
    """The parameters of ``_packed``, in the shapes of ``like``; others as they are."""
    if not isinstance(params, Packed):
        return params
    shapes, structure = jax.tree.flatten(like)
    vectors = iter(jax.lax.split(params.vectors, [leaf.size for leaf in shapes if _is_vector(leaf)]))
    matrices = iter(params.matrices)
    parts = [next(vectors).reshape(leaf.shape) if _is_vector(leaf) else next(matrices) for leaf in shapes]
    return jax.tree.unflatten(structure, parts)


class Interactions(NamedTuple):
    """What training knows beside its rows; product 0 is the unknown one."""

    columns: np.ndarray  # int32[V, C], the product's coded fields by the index of the product
    numbers: np.ndarray  # float32[V, M]
    counts: np.ndarray  # int64[V], training rows of each
    positives: np.ndarray | None  # uint32[users, words], ``positive_bits`` of the training rows; None: not masked


class Constants(NamedTuple):
    """``Interactions`` on the device, and what follows from them."""

    columns: Array
    numbers: Array
    positives: Array | None
    negatives: AliasTable | None  # what further negatives are drawn from; None where none are
    log_expected: Array  # float32[V], the logarithm of how often an item is expected among a step's candidates
    trained: Array  # bool[V], whether it stands in a training row


class Step(NamedTuple):
    block: RowBlock
    user_ids: Array  # int32[B, C], rows of the table, -1 for none
    user: Array  # int32[B], the customer
    items: Array  # int32[B + n], the candidates: the products of the rows, and n drawn ones
    item_ids: Array  # int32[B + n, C']
    share: Array | None  # float32[B], of each row in the batch statistics; None: worked out in the step


def _share(live: Array) -> Array:
    """float32[S, B]: 1 by the number of live rows in each of them; of all rows where none is live."""
    counted = live | ~jnp.any(live, axis=1, keepdims=True)
    return counted / jnp.sum(counted, axis=1, keepdims=True)


class TwoTower(TowerModel):
    """Two towers as the loop sees them; of all fields of the data set, the configuration says which are read."""

    def __init__(self, config: Experiment, schema: Schema) -> None:
        model, data = Config.of(config.model), RowData.of(config.data)
        fields = schema.select(data.fields).side("user", "item")
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

    def packed(self, params: Any, on: Placement) -> Any:
        return params if on.platform == "cpu" else _packed(params)

    def unpacked(self, params: Any) -> Any:
        return _unpacked(params, jax.eval_shape(self.init, jax.random.key(0)))

    def carry(self, lanes: int) -> Any:
        key = jax.random.key(0)  # statistics begin at 0 and 1 whatever the key
        statistics = {name: side.variables(key).get("batch_stats", {}) for name, side in self.sides.items()}
        if not self._pool:
            return {"statistics": statistics}
        near = jnp.zeros((self.n_items, self._pool), jnp.int32)
        return {"statistics": statistics, "steps": jnp.zeros((), jnp.int32), "near": near}

    def constants(self, known: Interactions) -> Constants:
        counts, alpha, n = np.array(known.counts, np.float64), self._loss.sample_alpha, self._loss.n_sample
        counts[0] = 0  # the unknown product stands for many, and is none
        share = counts / max(counts.sum(), 1)
        drawn = np.where(counts > 0, np.maximum(counts, 1) ** alpha, 0)
        expected = self._batch * share + n * drawn / max(drawn.sum(), 1e-9)
        return Constants(
            jnp.asarray(known.columns),
            jnp.asarray(known.numbers),
            None if known.positives is None else jnp.asarray(known.positives),
            alias_table(counts.astype(np.int64), alpha) if n else None,
            jnp.asarray(np.log(np.where(counts > 0, np.maximum(expected, 1e-9), 1.0)), jnp.float32),
            jnp.asarray(counts > 0),
        )

    def steps(self, constants: Constants, block: RowBlock, keys: Array, on: Placement = ONE) -> Step:
        user, item = block.columns[..., -2], block.columns[..., -1]
        streams = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        if constants.negatives is not None:
            table, n = constants.negatives, self._loss.n_sample
            item = jnp.concatenate([item, draw(table, streams[:, 0], n)], 1)
        columns = with_unknown(block.columns[..., :-2], streams[:, 1], self._unknown_rate)
        item_columns = with_unknown(constants.columns[item], streams[:, 2], self._unknown_rate)
        # What stands behind an epoch's last row reads nothing: it would move rows of a table that is not dense.
        live = jnp.pad(block.weight > 0, ((0, 0), (0, item.shape[1] - user.shape[1])), constant_values=True)
        return Step(
            block,
            jnp.where(block.weight[..., None] > 0, self.sides["user"].stack.ids(columns), -1),
            user,
            item,
            jnp.where(live[..., None], self.sides["item"].stack.ids(item_columns), -1),
            _share(block.weight > 0) if on.platform == "gpu" else None,
        )

    def reads(self, step: Step) -> dict[str, Reads]:
        ids = {"user": step.user_ids, "item": step.item_ids}
        return {name: {"row": Read(ids[name])} for name in self.tables}

    def loss(self, params: Any, tables: Tables, carry: Any, step: Step, key: Array, constants: Constants) -> Loss:
        """Mean contrastive loss of the step's rows, each against the other rows' products, drawn and hard ones."""
        params = self.unpacked(params)
        keys, live, on = jax.random.split(key, 3), step.block.weight > 0, tables.on
        if self._pool:
            carry = self._refreshed(params, tables, carry, constants)
        x = self._inputs(tables, "user", step.user_ids, step.block.numbers)
        counted, statistics = live | ~jnp.any(live) if step.share is None else step.share, carry["statistics"]
        queries, user_statistics = self.sides["user"].apply(params["user"], statistics["user"], x, counted, keys[0], on)
        b, c, item = len(live), len(step.items), self.sides["item"]
        if self._pool:  # int32[B, h], drawn from the items nearest to each row's
            place = jax.random.randint(keys[2], (b, self._loss.hard_negatives), 0, self._pool)
            hard = jnp.take_along_axis(carry["near"][step.items[:b]], place, axis=1)
        else:
            hard = jnp.zeros((b, 0), jnp.int32)
        # Candidates and hard negatives are normalised over the rows' products.
        x = self._inputs(tables, "item", step.item_ids, constants.numbers[step.items])
        if step.share is None:
            counted = (jnp.arange(c) < b) & jnp.pad(live | ~jnp.any(live), (0, c - b))
        else:
            counted = jnp.pad(step.share, (0, c - b))
        if self._pool:
            flat = hard.reshape(-1)
            ids = item.stack.ids(constants.columns[flat])
            x = jnp.concatenate([x, self._inputs(tables, "item", ids, constants.numbers[flat], None)])
            counted = jnp.pad(counted, (0, len(flat)))
        vectors, item_statistics = item.apply(params["item"], statistics["item"], x, counted, keys[1], on)
        near_vectors = vectors[c:].reshape(b, hard.shape[1], vectors.shape[1])
        rows = on.dealt(Contrasted(queries, vectors[:b], step.user, step.items[:b], hard, near_vectors))
        real = jnp.pad(live, (0, c - b), constant_values=True)
        shared = Shared(vectors[:c], step.items, real, constants.log_expected, constants.positives)
        total = contrast(self._loss, on, rows, live, on.whole(shared))
        carry = carry | {"statistics": {"user": user_statistics, "item": item_statistics}}
        return total / b, (carry, total)

    def _inputs(self, tables: Tables, side: str, ids: Array, numbers: Array, read: str | None = "row") -> Array:
        """float32[n, features]: of a read, or of any ids of a dense table."""
        vectors = jnp.zeros((0,))
        if side in self.tables:
            vectors = tables.vectors(side, read) if read else tables.rows(side, ids)
        return tables.on.dealt(self.sides[side].inputs(vectors, ids, numbers))

    def _refreshed(self, params: Any, tables: Tables, carry: Any, constants: Constants) -> Any:
        """With the nearest items looked up anew every ``refresh_steps`` steps (Xiong et al. 2021, "Approximate nearest
        neighbor negative contrastive learning for dense text retrieval", section 4)."""
        table, on = tables.whole("item") if "item" in self.tables else None, tables.on
        params, table = jax.lax.stop_gradient((params["item"], table))

        def look() -> Array:
            statistics = carry["statistics"]["item"]
            vectors = self.sides["item"].encode(params, statistics, table, constants.columns, constants.numbers)
            own = jnp.arange(self.n_items, dtype=jnp.int32)[:, None]
            # What no row holds would be nothing but wrong: a further column puts it last.
            last = jnp.where(constants.trained, 0.0, -10.0)[:, None]
            queries, items = (jnp.concatenate([vectors, more], axis=1) for more in (jnp.ones_like(last), last))
            size = block_size(self.n_items, MEMORY)
            if on.platform == "gpu":  # each block is a dozen kernels of its own
                size = BlockSize(max(size.queries, min(self.n_items, CELLS // size.items)), size.items)
            near, scores = top_items(queries, items, own, self._pool, size)
            return jnp.where(scores > -5.0, near, 0)

        near = jax.lax.cond(carry["steps"] % self._loss.refresh_steps == 0, look, lambda: carry["near"])
        return carry | {"near": near, "steps": carry["steps"] + 1}

    def encode(self, side: str, weights: dict[str, Any], columns: Array, numbers: Array) -> Array:
        table = weights["tables"].get(side)
        return self.sides[side].encode(weights["params"][side], weights["statistics"][side], table, columns, numbers)


Model = TwoTower
