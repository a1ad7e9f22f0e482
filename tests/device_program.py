"""Run by test_sharding in a process with eight virtual devices: how far training on them is from training on one.

python device_program.py compare | exchange | move CONFIG DIRECTORY      prints lines of JSON
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from device_models import MADE, gru4rec

from jaxrec import config as configuration
from jaxrec.benchmarks.exchange import exchanged
from jaxrec.ops import parallel
from jaxrec.tasks.base import load
from jaxrec.train import train as train_run
from jaxrec.training.block import make_train_block, new_state, place_state
from jaxrec.training.optimizers import make_optimizer, make_schedule


def train(name: str, devices: int, dtype: str, counts: tuple[int, ...]) -> list[Any]:
    """The state and losses after each of these counts of blocks."""
    with jax.enable_x64(dtype == "float64"):
        config, model, feed, constants = MADE[name](devices)
        mesh = parallel.make_mesh(devices, config.training.batch_size)
        clip_norm, on = config.optimizer.clip_norm, parallel.Placement(mesh)

        def cast(tree: Any) -> Any:
            def one(leaf: Any) -> Any:
                return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

            return jax.tree.map(one, tree)

        optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 200))
        with jax.enable_x64(False):  # random numbers of a type of their own would be other numbers
            begin = new_state(config, model, optimizer)
        state = place_state(cast(begin), model, mesh)
        constants = parallel.replicate(cast(constants), mesh)
        block = make_train_block(model, optimizer, clip_norm, 0.0, on, feed.shape.lanes)
        blocks = itertools.chain.from_iterable(feed.epoch(epoch) for epoch in itertools.count())
        found, losses = [], []
        for number in range(1, counts[-1] + 1):
            state, stats = block(state, constants, parallel.deal(cast(next(blocks)), mesh, 1))
            losses.append(np.asarray(jax.block_until_ready(stats.loss)))
            if number in counts:
                kept = jax.tree.map(np.asarray, (state.params, state.tables, state.carry))
                found.append((kept, np.concatenate(losses)))
        return found


def apart(one: Any, other: Any) -> float:
    """The largest difference of two trees, each leaf relative to the largest number in it."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if a.size and np.issubdtype(a.dtype, np.floating):
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)))
        elif a.size:
            worst = max(worst, float(np.mean(a != b)))
    return worst


def compare() -> None:
    """How far eight devices are from one after 20 and 200 steps."""
    for name in MADE:
        far: dict[str, float] = {}
        for dtype, counts in (("float64", (2,)), ("float32", (2, 20))):
            pairs = zip(train(name, 1, dtype, counts), train(name, 8, dtype, counts), strict=True)
            far |= {f"{dtype} {10 * count}": apart(*pair) for count, pair in zip(counts, pairs, strict=True)}
        print(json.dumps({"model": name, **far}), flush=True)


def exchange() -> None:
    """Bytes that a step of GRU4Rec exchanges with few and with many items."""
    for items in (1_000, 40_000):
        config, model, feed, constants = gru4rec(8, items)
        mesh = parallel.make_mesh(8, config.training.batch_size)
        clip_norm, on = config.optimizer.clip_norm, parallel.Placement(mesh)
        optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 200))
        state = place_state(new_state(config, model, optimizer), model, mesh)
        block = make_train_block(model, optimizer, clip_norm, 0.0, on, feed.shape.lanes)
        lowered = block.lower(state, parallel.replicate(constants, mesh), feed.like())
        bytes_ = exchanged(lowered.compile().as_text() or "", feed.shape.steps)
        print(json.dumps({"items": items, "width": model.tables["item"].width, "bytes": bytes_}))


def move(config_file: Path, place: Path) -> None:
    """A run stopped after an epoch on eight devices and continued on two, beside one on one device."""
    words = ["--training.batch_size", "16", "--training.epochs", "2", "--data.device_memory", "0"]  # streamed
    one, eight, two = (configuration.load(config_file, [*words, "--mesh.data", str(n)]) for n in (1, 8, 2))
    stopped: Any = 0

    def stop(epoch: int, metrics: dict[str, float]) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    try:
        train_run(eight, place / "moved", report=stop)
    except SystemExit as error:
        stopped = error.code
    train_run(two, place / "moved", resume=True)
    train_run(one, place / "stayed")
    devices = [mesh.size for n in (8, 2) if (mesh := parallel.make_mesh(n, 16)) is not None]
    weights = [load(place / name).weights for name in ("stayed", "moved")]
    print(json.dumps({"stopped": stopped, "devices": devices, "difference": apart(*jax.tree.map(np.asarray, weights))}))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    if sys.argv[1] == "move":
        move(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        {"compare": compare, "exchange": exchange}[sys.argv[1]]()
