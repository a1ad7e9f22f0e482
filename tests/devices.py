"""A program with eight virtual devices, for tests: JAX fixes their number when it starts. Prints a line of JSON.

python devices.py compare CONFIG        how far a block of training on eight devices is from one on one, in float64
python devices.py move CONFIG DIRECTORY exit status of a run stopped on eight devices, the number of devices before and
                                        after, and how far it is, continued on two, from one on one
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
from jax.experimental import multihost_utils

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import open_dataset
from jaxrec.ops import parallel
from jaxrec.tasks.base import load, make_task
from jaxrec.train import train
from jaxrec.training.block import Training


def block(config: Config) -> Any:
    """Parameters, tables, carry and losses after the first block of an epoch, in float64."""

    def double(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    with jax.enable_x64(True):
        task = make_task(config, open_dataset(config.data.path))
        training, mesh = Training(config, task.model, task.feed), task.feed.mesh
        with jax.enable_x64(False):  # random numbers of a type of their own would be other numbers
            begin = training.begin()
        constants = training.constants(double(task.constants))
        first = parallel.deal(double(next(iter(task.feed.epoch(0)))), mesh, 1)
        state, stats = training.block(double(begin), constants, first)
        return jax.tree.map(whole, (state.params, state.tables, state.carry, stats.loss))


def whole(leaf: jax.Array) -> np.ndarray:
    """The array, also where other processes have parts of it."""
    here = leaf.is_fully_replicated or leaf.is_fully_addressable
    return np.asarray(leaf if here else multihost_utils.process_allgather(leaf, tiled=True))


def apart(one: Any, other: Any) -> float:
    """The largest difference of two trees, each leaf relative to the largest number in it."""

    def of(a: Any, b: Any) -> float:
        return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6) if a.dtype.kind == "f" else np.mean(a != b))

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max((of(np.asarray(a), np.asarray(b)) for a, b in pairs if a.size), default=0.0)


def compare(file: str) -> float:
    words = ["--optimizer.clip_norm", "1", "--training.steps_per_block", "5", "--mesh.data"]
    return apart(*(block(configuration.load(file, [*words, n])) for n in ("1", "8")))


def move(file: str, place: str) -> tuple[Any, list[int], float]:
    words = ["--training.batch_size", "16", "--training.epochs", "2", "--data.device_memory", "0"]  # streamed
    one, eight, two = (configuration.load(file, [*words, "--mesh.data", str(n)]) for n in (1, 8, 2))
    moved, stayed, stopped = Path(place) / "moved", Path(place) / "stayed", None

    def stop(epoch: int, metrics: dict[str, float]) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    try:
        train(eight, moved, report=stop)
    except SystemExit as error:
        stopped = error.code
    train(two, moved, resume=True)
    train(one, stayed)
    meshes = [mesh.size for n in (8, 2) if (mesh := parallel.make_mesh(n, 16)) is not None]
    return stopped, meshes, apart(*(jax.tree.map(np.asarray, load(run).weights) for run in (stayed, moved)))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    programs: dict[str, Callable[..., object]] = {"compare": compare, "move": move}
    print(json.dumps(programs[sys.argv[1]](*sys.argv[2:])))
