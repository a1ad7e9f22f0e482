"""A program with eight virtual devices, for tests: JAX fixes their number when it starts. Prints a line of JSON.

python devices.py compare CONFIG STEPS MESH...  how far a block of steps on each mesh, such as 2x4, is from one on one
                                        device, in float64; the second side deals the rows of tables
python devices.py move CONFIG DIRECTORY MESH MESH  exit status of a run stopped on the first mesh, the number of devices
                                        before and after, and how far it is, continued on the second, from one on one
python devices.py dealt                 what differs of rows and ranks where tables are dealt: nothing should
python devices.py used CONFIG DIRECTORY MESH  whether a run trained on a mesh is judged and recommends, dealt, as it
                                        does on one device
"""

from __future__ import annotations

import json
import operator
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from worlds import Shop

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import open_dataset
from jaxrec.ops import hosts, parallel, shards
from jaxrec.ops.rows import deal, gathered_array, look_up, mesh_of, rows_each, shards_of
from jaxrec.ops.tables import gather, plan_block, update_rows
from jaxrec.ops.topk import EVERYTHING, BlockSize, Candidates, Live, rank, top_items
from jaxrec.recommend import Recommender
from jaxrec.tasks.base import load, make_task, part_of
from jaxrec.tasks.query import Answer, Query
from jaxrec.train import train
from jaxrec.training.block import Training
from jaxrec.training.state import TrainState, init_state


def block(config: Config) -> Any:
    """Parameters, tables with what the optimizer keeps of them, carry and losses after the first block, in float64."""

    def double(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    with jax.enable_x64(True):
        task = make_task(config, open_dataset(config.data.path))
        training, mesh = Training(config, task.model, task.feed), task.feed.mesh
        with jax.enable_x64(False):  # random numbers of a type of their own would be other numbers
            begin = on_devices(training, init_state(task.model, training.optimizer, config.training))
        constants = training.constants(double(task.constants))
        first = parallel.deal(double(next(iter(task.feed.epoch(0)))), mesh, 1)
        state, stats = training.block(double(begin), constants, first)
        tables = {name: of_table(training, name, state) for name in state.tables}
        return jax.tree.map(whole, (state.params, tables, state.carry, stats.loss))


def on_devices(training: Training, one: TrainState) -> TrainState:
    """The first state of one device where it lies on several, whose own is the same to rounding: without optimisations,
    as tests compile, normal numbers differ in their last bit."""

    def placed(leaf: Any, begin: Any) -> Any:
        array, shards = np.asarray(leaf), shards_of(begin)
        array = dealt_array(array, shards) if shards > 1 else array
        np.testing.assert_allclose(whole(begin), array, rtol=1e-5, atol=1e-6)
        return hosts.put(array, begin.sharding)

    return jax.tree.map(placed, one, training.begin())


def of_table(training: Training, name: str, state: Any) -> Any:
    """A table and what the optimizer keeps of it, as they are on one device."""
    table, rows, shards = state.tables[name], training.model.tables[name].rows, training.on.shards

    def natural(leaf: Any) -> Any:
        dealt = leaf.ndim and len(leaf) == len(table) and training.on.deals(rows)
        return gathered_array(whole(leaf), rows, shards) if dealt else leaf

    if training.on.deals(rows):
        held = {shard.data.shape[0] for shard in table.addressable_shards}
        assert held == {len(table) // shards}, "each device has its part of a table alone"
    return jax.tree.map(natural, (table, state.table_optimizer[name]))


def dealt_array(array: np.ndarray, shards: int) -> np.ndarray:
    """[n * L, ...]: an array as it is dealt, from [V, ...]."""
    each = rows_each(len(array), shards)
    padded = np.zeros((shards * each, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded.reshape(each, shards, *array.shape[1:]).swapaxes(0, 1).reshape(padded.shape)


def whole(leaf: Any) -> np.ndarray:
    """The array, also where other processes have parts of it."""
    if isinstance(leaf, np.ndarray):
        return leaf
    here = leaf.is_fully_replicated or leaf.is_fully_addressable
    return np.asarray(leaf if here else multihost_utils.process_allgather(leaf, tiled=True))


def apart(one: Any, other: Any) -> float:
    """The largest difference of two trees, each leaf relative to the largest number in it."""

    def of(a: Any, b: Any) -> float:
        return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6) if a.dtype.kind == "f" else np.mean(a != b))

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max((of(np.asarray(a), np.asarray(b)) for a, b in pairs if a.size), default=0.0)


def on_mesh(mesh: str) -> list[str]:
    """The options of a mesh such as 2x4."""
    data, _, model = mesh.partition("x")
    return ["--mesh.data", data, "--mesh.model", model]


def compare(file: str, steps: str, *meshes: str) -> list[float]:
    words = ["--optimizer.clip_norm", "1", "--training.steps_per_block", steps]
    one, *many = (block(configuration.load(file, [*words, *on_mesh(mesh)])) for mesh in ("1x1", *meshes))
    return [apart(one, other) for other in many]


def move(file: str, place: str, first: str, second: str) -> tuple[Any, list[int], float]:
    words = ["--training.batch_size", "16", "--training.epochs", "2", "--data.device_memory", "0"]  # streamed
    one, before, after = (configuration.load(file, [*words, *on_mesh(mesh)]) for mesh in ("1x1", first, second))
    moved, stayed, stopped = Path(place) / "moved", Path(place) / "stayed", None

    def stop(epoch: int, metrics: dict[str, float]) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    try:
        train(before, moved, report=stop)
    except SystemExit as error:
        stopped = error.code
    train(after, moved, resume=True)
    train(one, stayed)
    meshes = [int(np.prod([int(side) for side in mesh.split("x")])) for mesh in (first, second)]
    return stopped, meshes, apart(*(jax.tree.map(np.asarray, load(run, whole=True).weights) for run in (stayed, moved)))


def dealt() -> dict[str, bool]:
    """Rows and ranks of dealt tables beside those of whole ones: small whole numbers, so that all of it is exact."""
    same = dict[str, bool]()
    for data, model in ((1, 8), (2, 4)):
        mesh = parallel.mesh_over(jax.local_devices(), (data, model))
        assert mesh is not None
        found = (*same_rows(mesh), *same_ranks(mesh), *same_places(parallel.Placement(mesh)))
        same |= {f"{name}, {data} x {model}": equal for name, equal in found}
    return same


def same_rows(mesh: Any) -> Iterator[tuple[str, bool]]:
    """A step that reads rows of all devices evenly, or of one alone, which hands them out in rounds; and nothing."""
    rows, width, m, random = 1003, 3, 96, np.random.default_rng(0)
    table, on = random.integers(-9, 9, (rows, width)).astype(np.float32), parallel.Placement(mesh)
    place, optimizer = NamedSharding(mesh, PartitionSpec(parallel.MODEL)), optax.sgd(1.0, momentum=0.5)
    one_device = 8 * random.permutation(rows // 8)[:m]
    for name, ids in (("even", random.permutation(rows)[:m]), ("one device", one_device), ("none", np.full(m, -1))):
        read = jnp.asarray(np.append(ids[: m - 9], ids[:9]), jnp.int32)[None]  # some twice
        slope = jnp.asarray(random.integers(-9, 9, (m, width)), jnp.float32)
        found = []
        for where in (parallel.Placement(), on):
            array = jnp.asarray(table) if where.mesh is None else jax.device_put(dealt_array(table, on.shards), place)

            def step(array: Any, slope: Any, where: parallel.Placement = where, read: Any = read) -> Any:
                plan = jax.tree.map(operator.itemgetter(0), plan_block([read], rows, where))
                taken, live = gather(array, plan, where), jnp.any(read >= 0)
                state = optimizer.init(array)
                return taken, update_rows(optimizer, live, array, state, plan, taken, slope, where)

            taken, (new, state) = jax.jit(step)(array, slope)
            kept = np.asarray(plan_block([read], rows).slot[0] == np.arange(m))  # what stands for an id
            natural = [np.asarray(leaf) if where.mesh is None else gathered_array(np.asarray(leaf), rows, on.shards)
                       for leaf in (new, *(leaf for leaf in jax.tree.leaves(state) if leaf.ndim))]  # fmt: skip
            found.append([np.asarray(taken)[kept], *natural])
        yield f"rows: {name}", all(map(np.array_equal, *found))


def same_places(on: parallel.Placement) -> Iterator[tuple[str, bool]]:
    """A table that is made in blocks and dealt, at once and a few rows at a time."""
    table, usual = np.random.default_rng(0).normal(size=(1003, 3)).astype(np.float32), shards.DEALT_AT_ONCE
    for shards.DEALT_AT_ONCE in (100, usual):
        found = np.asarray(jax.jit(partial(shards.deal_rows, on=on))(jnp.asarray(table)))
        yield f"dealt, {shards.DEALT_AT_ONCE} bytes at a time", np.array_equal(found, dealt_array(table, on.shards))


def same_ranks(mesh: Any) -> Iterator[tuple[str, bool]]:
    """Ranks and best items with many equal scores, among all items, live ones, and without some."""
    n, rows, random = 12, 203, np.random.default_rng(1)
    items, queries = (random.integers(-2, 3, (size, 4)).astype(np.float32) for size in (rows, n))
    queries[3, 0] = np.nan
    target = jnp.asarray(random.integers(0, rows, n), jnp.int32)
    table = deal(items, mesh)
    listed = random.integers(0, 9, rows).astype(np.int32)
    at = jnp.asarray(random.integers(0, 12, n), jnp.int32)
    live, dealt_live = (Live(put(listed), put(listed + 4), at) for put in (jnp.asarray, partial(deal, mesh=mesh)))
    without = jnp.asarray(random.integers(0, 2**32, (n, -(-rows // 32)), dtype=np.uint32))
    for name, of_whole, of_dealt in (
        ("all", EVERYTHING, EVERYTHING), ("live", Candidates(live), Candidates(dealt_live)),
        ("without", Candidates(without=without), Candidates(without=without)),
    ):  # fmt: skip
        one, many = (rank(jnp.asarray(queries), target, part, BlockSize(5, 64), 20, among)
                     for part, among in ((items, of_whole), (table, of_dealt)))  # fmt: skip
        count = np.isin(np.arange(n), [3], invert=True)  # of a query that is no number only the rank says something
        allowed = 20 if name == "all" else 10
        best, dealt_best = (np.asarray(found[1])[count, :allowed] for found in (one, many))
        yield f"ranks: {name}", np.array_equal(one[0], many[0]) and np.array_equal(best, dealt_best)
    banned = jnp.asarray(random.integers(0, rows + 1, (n, 30)), jnp.int32)
    found = [top_items(jnp.asarray(queries), part, banned, 20, BlockSize(5, 64), 201) for part in (items, table)]
    (one, scores), (many, dealt_scores) = (map(np.asarray, both) for both in found)
    there = np.isfinite(scores)
    yield "best items", np.array_equal(scores, dealt_scores) and np.array_equal(one[there], many[there])
    ids = jnp.asarray([[0, -1], [rows - 1, 7]], jnp.int32)
    yield "look-up", np.array_equal(look_up(table, ids), look_up(jnp.asarray(items), ids))


def used(file: str, place: str, mesh: str) -> dict[str, bool]:
    config, run = configuration.load(file, ["--training.epochs", "1", *on_mesh(mesh)]), Path(place) / "run"
    train(config, run)
    one, many = loaded = [load(run, whole=whole) for whole in (True, False)]
    judge = make_task(config, open_dataset(config.data.path)).judge
    ranks, dealt_ranks = (judge(each.weights, [1, 3]).arrays for each in loaded)
    found = {
        "dealt": mesh_of(one.weights) is None and mesh_of(many.weights) is not None,
        "judged": all(np.allclose(ranks[name], dealt_ranks[name], rtol=1e-4, atol=1e-5) for name in ("rank", "logit")
                      if name in ranks),
    }  # fmt: skip
    answers = [list(answers_of(Recommender(each.run, part_of(config, "recommend").Recommender(each))))
               for each in loaded]  # fmt: skip
    return found | {what: all(map(alike, a, b)) for (what, a), (_, b) in zip(*answers, strict=True)}


def answers_of(r: Recommender) -> Iterator[tuple[str, list[Answer]]]:
    """What a recommender answers, in all its ways."""
    ids, read = r.kind.items.ids.values(), r.reads[0]
    if read == "items":
        queries = [Query(ids[i : i + 3]) for i in range(7)]
    elif read == "events":
        queries = [Query(events=r.example(i)) for i in range(7)]
    else:
        queries = [Query(user=Shop.customer(i) if "similar" in r.can else 100 + i) for i in range(7)]
    yield "all items", r.recommend(queries, len(ids), seen=True)
    yield "a few", r.recommend(queries, 3, exclude=ids[:5])
    if "similar" in r.can:
        yield "similar", [r.similar(one, len(ids) - 3) for one in ids[2:4]]
    if "add" in r.can and getattr(r.run.config.model, "head", "text") != "items":
        new = {"item": 900, "name": r.example(0)[0]["name"]} if read == "events" else {"product": "n1", "price": 53.0}
        r.add([new])
        yield "added", r.recommend(queries, len(ids) + 1, seen=True)
        yield "similar to what was added", [r.similar(r.kind.items.ids.values()[-1], 5)]


def alike(one: Answer, other: Answer) -> bool:
    """The same scores, and the same items but where scores are equal to rounding."""
    ours, theirs = ({item.id: item.score for item in answer.items} for answer in (one, other))
    close, last = partial(np.allclose, rtol=1e-5, atol=1e-5), list(ours.values())[-1]
    same = len(ours) == len(theirs) > 0 and close(list(ours.values()), list(theirs.values()))
    return bool(same and all(close(score, theirs.get(one, last)) for one, score in ours.items()))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    programs: dict[str, Callable[..., object]] = {"compare": compare, "move": move, "dealt": dealt, "used": used}
    print(json.dumps(programs[sys.argv[1]](*sys.argv[2:])))
