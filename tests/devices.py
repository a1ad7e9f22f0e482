"""A program with eight virtual devices, for tests: JAX fixes their number when it starts. Prints lines of JSON.

python devices.py compare CONFIG...     how far a block of training on eight devices is from one on one, in float64
python devices.py exchange CONFIG       bytes that a step exchanges with the catalogue and with one 1,000 times as large
python devices.py move CONFIG DIRECTORY a run stopped on eight devices and continued on two, beside one on one
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import config as configuration
from jaxrec.benchmarks.exchange import exchanged
from jaxrec.config import Config
from jaxrec.data.dataset import open_dataset, open_sessions
from jaxrec.models.base import make_model
from jaxrec.ops import parallel
from jaxrec.tasks.base import load, make_task
from jaxrec.train import train as train_run
from jaxrec.training.block import Training, training_plan


def double(tree: Any) -> Any:
    """Floating-point leaves as float64."""
    return jax.tree.map(lambda leaf: leaf.astype("float64") if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def trained(config: Config) -> Any:
    """Parameters, tables, carry and losses after the first block of an epoch."""
    with jax.enable_x64(True):
        task = make_task(config, open_dataset(config.data.path))
        training, mesh = Training(config, task.model, task.feed), task.feed.mesh
        with jax.enable_x64(False):  # random numbers of a type of their own would be other numbers
            begin = training.begin()
        state, constants = double(begin), parallel.replicate(double(task.constants), mesh)
        block = parallel.deal(double(next(iter(task.feed.epoch(0)))), mesh, 1)
        state, stats = training.block(state, constants, block)
        return jax.tree.map(np.asarray, (state.params, state.tables, state.carry, stats.loss))


def apart(one: Any, other: Any) -> float:
    """The largest difference of two trees, each leaf relative to the largest number in it."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if a.size and np.issubdtype(a.dtype, np.floating):
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)))
        elif a.size:
            worst = max(worst, float(np.mean(a != b)))
    return worst


def compare(*files: str) -> None:
    more = ["--optimizer.clip_norm", "1", "--training.steps_per_block", "5"]
    for file in files:
        one, eight = (configuration.load(file, [*more, "--mesh.data", str(n)]) for n in (1, 8))
        print(json.dumps({"model": one.model.name, "difference": apart(trained(one), trained(eight))}), flush=True)


def exchange(file: str) -> None:
    config = configuration.load(file, ["--mesh.data", "8"])
    data = open_sessions(config.data.path)
    split = data.split("train")
    for items in (data.n_items, 1000 * data.n_items):
        model = make_model(config, items)
        feed = model.feed(split, training_plan(config))
        training = Training(config, model, feed)
        constants = parallel.replicate(model.constants(np.bincount(split.items, minlength=items)), feed.mesh)
        program = training.block.lower(training.begin(), constants, feed.like()).compile().as_text()
        sent = exchanged(program or "", feed.shape.steps)
        table = model.tables["item"]
        print(json.dumps({"table": 4 * table.rows * table.width, "sent": sum(sent.values())}))


def move(file: str, place: str) -> None:
    words = ["--training.batch_size", "16", "--training.epochs", "2", "--data.device_memory", "0"]  # streamed
    one, eight, two = (configuration.load(file, [*words, "--mesh.data", str(n)]) for n in (1, 8, 2))
    stopped: Any = 0

    def stop(epoch: int, metrics: dict[str, float]) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    try:
        train_run(eight, Path(place) / "moved", report=stop)
    except SystemExit as error:
        stopped = error.code
    train_run(two, Path(place) / "moved", resume=True)
    train_run(one, Path(place) / "stayed")
    devices = [mesh.size for n in (8, 2) if (mesh := parallel.make_mesh(n, 16)) is not None]
    weights = [jax.tree.map(np.asarray, load(Path(place) / name).weights) for name in ("stayed", "moved")]
    print(json.dumps({"stopped": stopped, "devices": devices, "difference": apart(*weights)}))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    programs: dict[str, Callable[..., None]] = {"compare": compare, "exchange": exchange, "move": move}
    programs[sys.argv[1]](*sys.argv[2:])
