"""What a run would train, as shapes alone: the model, its feed and its constants, of a data set that is there, or of
sizes that are given before there is any. No table, name vector or alias table of those sizes is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrec.baselines.ratings import Logistic
from jaxrec.benchmarks.sizes import EVENT_TYPES, MEAN_LENGTH, NAME_DIM, synthetic_sessions
from jaxrec.config import Config, find_task
from jaxrec.config.sections import MeshConfig
from jaxrec.data.dataset import Field, Rows, Schema, open_dataset
from jaxrec.data.items import FIELDS, PRICE_BUCKETS, Catalogue
from jaxrec.data.retrieval import WORD, check_mask
from jaxrec.errors import UserError
from jaxrec.feeds.base import Feed, Plan
from jaxrec.models.base import Model, make_model
from jaxrec.models.two_tower import Interactions
from jaxrec.tasks.base import make_task
from jaxrec.training.block import training_plan

LARGEST = 2**31 - 1  # ids are int32
VALUES = 100  # of a field of rows or of items, where there is no data to count them
MOST_EVENTS = 4_000_000  # that a feed is made of to see the shapes of its blocks
USERS = ("user", "customer", "visitor")  # what fields are called that identify a user
ITEMS = ("item", "movie", "product", "ad")  # or an item
Sizes = dict[str, int]
"""``items``, ``users``, ``names``, ``events``; those that were given."""


@dataclass(frozen=True)
class Workload:
    """A model with its feed on a target's mesh; nothing lies on a device."""

    config: Config
    model: Model
    feed: Feed
    constants: Any  # shapes
    items: int
    resident: int | None  # bytes of the training split on each device; 0: blocks are streamed; None: not known
    assumed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Planned:
    """How a feed is planned for a mesh of devices that are not here."""

    mesh: Mesh | None

    def __call__(self, config: Config, *args: Any, **options: Any) -> Plan:
        alone = config.model_copy(update={"mesh": MeshConfig(data=1)})
        return replace(training_plan(alone, *args, **options), mesh=self.mesh, device_bytes=-1)


def of_data(config: Config, mesh: Mesh | None) -> Workload:
    """That of the configuration's data set."""
    dataset = open_dataset(config.data.path)
    task = make_task(config, dataset, Planned(mesh))
    items = dataset.manifest["counts"].get("items", 0)
    feed = task.feed
    return Workload(config, task.model, feed, shapes(task.constants), items, resident(config, feed.bytes))


def resident(config: Config, size: int) -> int:
    """What the training split takes on a device where it and an epoch's order have so many bytes."""
    return size if size <= config.data.device_memory * 2**20 else 0


def bytes_of(tree: Any) -> int:
    """Of arrays or shapes."""
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def shapes(tree: Any) -> Any:
    """Shapes and dtypes of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


# ---- of sizes --------------------------------------------------------------------------------------------------------


def of_sizes(config: Config, sizes: Sizes, mesh: Mesh | None) -> Workload:
    """That of data of the given sizes, whose events and values are made up."""
    work: Workload = KINDS[config.model.task](config, sizes, mesh)
    return work


def check(config: Config, sizes: Sizes) -> None:
    """Refuse sizes that the configuration's data have not, and where none are given a data set that is not there."""
    task = config.model.task
    if not sizes:
        if not (Path(config.data.path) / "manifest.json").exists():
            raise UserError(f"{config.data.path}: no data set is there; prepare it, or give its size: --items N (of "
                            "rows --users N too)")  # fmt: skip
        return
    if "items" not in sizes:
        raise UserError(f"--{next(iter(sizes))}: needs --items; where there is a data set leave out both")
    if task not in KINDS:
        raise UserError(f"model.name: {config.model.name} is of a task of your own ({task}), whose data jaxrec does "
                        "not know; prepare a data set and leave --items out")  # fmt: skip
    kind = find_task(config.model).READS
    for name, known in (("users", kind == "rows"), ("names", task == "events")):
        if name in sizes and not known:
            raise UserError(f"--{name}: {config.model.name} reads none; leave it out")
    if sizes.get("events", 0) > LARGEST:
        raise UserError(f"--events: {sizes['events']:,} do not fit int32 positions, which end at {LARGEST:,}")
    reads = 2 * config.training.batch_size + getattr(config.loss, "n_sample", 0)
    if max(sizes["items"], sizes.get("users", 0)) + reads > LARGEST:  # ops.tables.plan_reads puts them behind the rows
        raise UserError(f"--items: {sizes['items']:,} and the {reads:,} reads of a step do not fit int32 ids, which "
                        f"end at {LARGEST:,}; give fewer")  # fmt: skip


def lines(build: Callable[[Sizes], Any], sizes: Sizes) -> Any:
    """The shapes of ``build(sizes)``, whose dimensions are lines in each of the sizes: found from small ones, and
    checked on one more."""
    base = dict.fromkeys(sizes, SMALL)
    others = {name: jax.tree.leaves(shapes(build(base | {name: SMALL + STEP}))) for name in sizes}
    first, tree = jax.tree.flatten(shapes(build(base)))

    def at(leaf: Any, number: int, sizes: Sizes) -> Any:
        sides = []
        for axis, side in enumerate(leaf.shape):
            slopes = {name: Fraction(found[number].shape[axis] - side, STEP) for name, found in others.items()}
            sides.append(int(side + sum(slope * (sizes[name] - SMALL) for name, slope in slopes.items())))
        return jax.ShapeDtypeStruct(tuple(sides), leaf.dtype)

    check = {name: SMALL + (2 + place) * STEP for place, name in enumerate(sizes)}
    expected = [leaf.shape for leaf in jax.tree.leaves(build(check))]
    assert expected == [at(leaf, i, check).shape for i, leaf in enumerate(first)], "dimensions are lines in the sizes"
    return jax.tree.unflatten(tree, [at(leaf, i, sizes) for i, leaf in enumerate(first)])


SMALL, STEP = 4096, 1024  # both are multiples of a word of bits


def _events_of(config: Config, given: int | None) -> int:
    """How many events fill ten blocks, or as many as are given where that is less."""
    settings = config.training
    enough = 10 * settings.steps_per_block * settings.batch_size * MEAN_LENGTH // (MEAN_LENGTH - 1)
    return max(2 * MEAN_LENGTH, min(enough, MOST_EVENTS, given or enough))


def _scaled(config: Config, feed: Feed, made: int, given: int | None) -> int | None:
    """``Workload.resident`` of the given number of events or rows, from a feed of the ones that were made."""
    return None if given is None else resident(config, feed.bytes * given // made)


def _check_rows(schema: Schema) -> None:
    """The rows of a table of all fields' values are int32."""
    if (rows := sum(field.size for field in schema.fields)) > LARGEST - 2**20:
        raise UserError(
            f"--items: {rows:,} values of fields do not fit int32 ids, which end at {LARGEST:,}; give fewer"
        )


def _sequences(config: Config, model: Model, sizes: Sizes, mesh: Mesh | None, events: bool) -> tuple[Feed, int | None]:
    """A feed of made up sessions, and what it would take on a device."""
    sessions = synthetic_sessions(1000, _events_of(config, sizes.get("events")))
    if events:
        sessions = replace(sessions, events=np.zeros(len(sessions.items), np.uint8))
    feed = model.feed(sessions, Planned(mesh)(config, config.data.order))
    return feed, _scaled(config, feed, len(sessions.items), sizes.get("events"))


def _sessions(config: Config, sizes: Sizes, mesh: Mesh | None) -> Workload:
    items = sizes["items"]
    model = make_model(config, items)
    feed, held = _sequences(config, model, sizes, mesh, False)
    constants = lines(lambda small: _counted(make_model(config, small["items"]), small["items"]), {"items": items})
    return Workload(config, model, feed, constants, items, held, [f"sessions of {MEAN_LENGTH} clicks on average"])


def _counted(model: Model, items: int) -> Any:
    return model.constants(np.ones(items, np.int64))


def _typed(config: Config, sizes: Sizes, mesh: Mesh | None) -> Workload:
    """Events on items with names; a catalogue without end takes no memory."""
    fields, items = config.model.item_fields, sizes["items"]
    names = sizes.get("names", items)

    def catalogue(sizes: Sizes) -> Catalogue:
        import pyarrow as pa

        values = tuple(pa.array(range(0 if name == "price" else VALUES)) for name in fields)
        vectors = np.broadcast_to(np.zeros((), np.float16), (sizes["names"], NAME_DIM))
        name_of = np.broadcast_to(np.zeros((), np.int32), (sizes["items"],))
        codes = np.broadcast_to(np.zeros((), np.int32), (sizes["items"], len(fields)))
        return Catalogue(vectors, {}, name_of, codes, tuple(fields), values)

    def build(sizes: Sizes) -> Any:
        return make_model(config, catalogue(sizes), EVENT_TYPES)

    given = {"items": items, "names": names}
    model = build(given)
    feed, held = _sequences(config, model, sizes, mesh, True)
    constants = lines(lambda small: _counted(build(small), small["items"]), given)
    assumed = [
        f"sequences of {MEAN_LENGTH} events on average, of {EVENT_TYPES} types",
        f"{names:,} distinct names with vectors of {NAME_DIM}",
        "no times at which items are listed and sold",
    ]
    if fields:
        assumed.append(f"{VALUES} values of each of {', '.join(fields)} ({PRICE_BUCKETS} buckets of a price)")
    assert set(fields) <= set(FIELDS)
    return Workload(config, model, feed, constants, items, held, assumed)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _schema(config: Config, users: int, items: int) -> Schema:
    """The configured fields: those that are called like users and items have their sizes, all others ``VALUES``; an
    item's are those that stand behind it, or where none is named the last half."""
    names = list(config.data.fields or ("user", "item"))
    place = next((names.index(name) for name in ITEMS if name in names), None)
    first = len(names) - len(names) // 2 if place is None else place
    sizes = {**dict.fromkeys(USERS, users + 1), **dict.fromkeys(ITEMS, items + 1)}
    sides = {**dict.fromkeys(USERS, "user"), **dict.fromkeys(ITEMS, "item")}
    fields = [Field(name, "categorical", sides.get(name, "item" if at >= first else "user"), sizes.get(name, VALUES))
              for at, name in enumerate(names)]  # fmt: skip
    named: dict[str, str] = {}
    for known, side, size in ((USERS, "user", users + 1), (ITEMS, "item", items + 1)):
        named[side] = next((name for name in known if name in names), known[0])
        if named[side] not in names:  # which is known, and not read
            fields.append(Field(named[side], "categorical", side, size))
    schema = Schema(tuple(fields), named["user"], named["item"], 1.0, 0.0, 1.0)
    _check_rows(schema)
    return schema


def _said(config: Config, schema: Schema) -> list[str]:
    read = schema.select(config.data.fields or tuple(field.name for field in schema.fields)).fields
    told = ", ".join(f"{field.name} {field.size - (field.size != VALUES):,} ({field.side})" for field in read)
    return [f"values of fields: {told}"]


def _rows_feed(config: Config, model: Model, sizes: Sizes, mesh: Mesh | None, columns: int) -> tuple[Feed, int | None]:
    settings = config.training
    n = min(10 * settings.steps_per_block * settings.batch_size, MOST_EVENTS, sizes.get("events", MOST_EVENTS))
    zeros = np.zeros(n, np.float32)
    rows = Rows(np.zeros((n, columns), np.int32), np.zeros((n, 0), np.float32), zeros, zeros, np.zeros(n, np.int64),
                np.zeros(n, np.int32))  # fmt: skip
    feed = model.feed(rows, Planned(mesh)(config, passes=getattr(settings, "passes", 1)))
    return feed, _scaled(config, feed, n, sizes.get("events"))


def _clicks(config: Config, sizes: Sizes, mesh: Mesh | None) -> Workload:
    users, items = sizes.get("users", sizes["items"]), sizes["items"]

    def build(sizes: Sizes) -> tuple[Any, Schema]:
        schema = _schema(config, sizes["users"], sizes["items"]).select(config.data.fields)
        start = Logistic(np.zeros(1), 0.0, 1.0) if config.model.first_order == "logistic" else None
        return make_model(config, schema, start), schema

    given = {"users": users, "items": items}
    model, schema = build(given)
    feed, held = _rows_feed(config, model, sizes, mesh, len(schema.fields))

    def constants(sizes: Sizes) -> Any:
        model, schema = build(sizes)
        return _counted(model, sum(field.size for field in schema.fields))

    return Workload(config, model, feed, lines(constants, given), items, held, _said(config, schema))


def _retrieval(config: Config, sizes: Sizes, mesh: Mesh | None) -> Workload:
    users, items = sizes.get("users", sizes["items"]), sizes["items"]
    given = {"users": users, "items": items}
    schema, has_bits = _schema(config, users, items), config.loss.mask == "positives"
    if has_bits:
        check_mask(users + 1, items + 1, config.data.device_memory)
    model = make_model(config, schema)
    feed, held = _rows_feed(config, model, sizes, mesh, len(model.sides["user"].coded.fields) + 2)

    def constants(sizes: Sizes) -> Any:
        n = sizes["items"] + 1
        known = (n, len(model.sides["item"].coded.fields)), (n, 0), (n,), (sizes["users"] + 1, -(-n // WORD))
        columns, numbers, counts, bits = (np.zeros(shape, np.int32) for shape in known)
        small = make_model(config, _schema(config, sizes["users"], sizes["items"]))
        return small.constants(Interactions(columns, numbers.astype(np.float32), counts + 1,
                                            bits.astype(np.uint32) if has_bits else None))  # fmt: skip

    return Workload(config, model, feed, lines(constants, given), items, held, _said(config, schema))


KINDS: dict[str, Callable[[Config, Sizes, Mesh | None], Workload]] = {
    "sessions": _sessions, "events": _typed, "clicks": _clicks, "retrieval": _retrieval,
}  # fmt: skip
