"""Forms of programs for accelerators: on a CPU they give what its own form gives; and tables that lie otherwise."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import apart
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.layout import Layout
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.config import models
from jaxrec.data.dataset import open_dataset
from jaxrec.ops import parallel
from jaxrec.ops import rows as array_rows
from jaxrec.ops.parallel import Placement
from jaxrec.ops.rows import take_rows
from jaxrec.ops.tables import Read, plan_block, plan_reads
from jaxrec.tasks.base import load, make_task
from jaxrec.train import train
from jaxrec.training import block as blocks
from jaxrec.training import state as states
from jaxrec.training.block import Training

GPU = Placement(platform="gpu")
V, S, M = 9, 3, 10
IDS = st.lists(st.sampled_from([-1, *range(V), V, V + 3, 2**30]), min_size=S * M, max_size=S * M)
sorted_plans = jax.jit(lambda first, second: plan_block([first, second], V))
marked_plan = jax.jit(lambda ids: plan_reads(jnp.zeros(V, jnp.int32), {"one": Read(ids)}, jnp.int32(0), 4)[1])


@given(IDS)
@settings(max_examples=50, deadline=None)
def test_sorting_plans_all_steps_as_marks_plan_each(listed: list[int]) -> None:
    ids = np.array(listed, np.int32).reshape(S, M)
    plan = sorted_plans(ids[:, :4], ids[:, 4:].reshape(S, 2, 3))
    for step in range(S):
        expected = marked_plan(ids[step])
        np.testing.assert_array_equal(plan.ids[step], expected.ids)
        there = (ids[step] >= 0) & (ids[step] < V)
        np.testing.assert_array_equal(plan.slot[step], np.where(there, expected.slot, -1))


@pytest.mark.parametrize("cells", [0, 2**22], ids=["scatter", "product"])
def test_derivatives_of_rows_add_up_at_equal_places(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_rows, "CELLS", cells)
    random = np.random.default_rng(0)
    array, index = random.standard_normal((5, 3), np.float32), np.array([[4, 0], [4, -1], [2, 4]], np.int32)
    slope = random.standard_normal((3, 2, 3)).astype(np.float32)
    rows, backward = jax.vjp(lambda array: take_rows(array, jnp.asarray(index), GPU), jnp.asarray(array))
    expected = np.zeros_like(array)
    np.add.at(expected, index[index >= 0], slope[index >= 0])
    np.testing.assert_array_equal(rows, np.where(index[..., None] >= 0, array[index], 0))
    np.testing.assert_allclose(backward(jnp.asarray(slope))[0], expected, rtol=1e-6, atol=1e-6)


def first_block(file: Path, words: list[str], platform: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """State and losses after the first block of an epoch, in float64, by the form of a platform."""
    monkeypatch.setattr(parallel, "platform_of", lambda device: platform)
    monkeypatch.setattr(blocks, "row_formats", lambda *_: None)

    def double(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    config = configuration.load(file, [*words, "--training.steps_per_block", "3"])
    with jax.enable_x64(True):
        task = make_task(config, open_dataset(config.data.path))
        training = Training(config, task.model, task.feed)
        with jax.enable_x64(False):  # random numbers of a type of their own would be other numbers
            begin = training.begin()
        state, stats = training.block(double(begin), double(task.constants), double(next(iter(task.feed.epoch(0)))))
        return jax.tree.map(np.asarray, (state, stats.loss))


@pytest.mark.parametrize("name", models())
def test_every_platform_trains_the_same(name: str, worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (first_block(worlds.config(name), [], platform, monkeypatch) for platform in ("cpu", "gpu"))
    assert apart(here, there) < 1e-11


GRU4REC = {
    "two layers": "--model.layers 8 8 --loss.logq 1",
    "inputs of another width": "--model.layers 8 --model.embedding separate --model.embedding_dim 5",
    "one-hot": "--model.layers 8 --model.embedding onehot",
}


@pytest.mark.parametrize("words", GRU4REC.values(), ids=list(GRU4REC))
def test_every_platform_trains_the_same_network(words: str, worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both kernels of a layer are one array, and where they are not."""
    file = worlds.config("gru4rec")
    here, there = (first_block(file, words.split(), platform, monkeypatch) for platform in ("cpu", "gpu"))
    assert apart(here, there) < 1e-11


def stop(epoch: int, metrics: dict[str, float]) -> bool:
    os.kill(os.getpid(), signal.SIGTERM)
    return False


def test_tables_that_lie_otherwise_train_the_same(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a TPU, where rows are laid one behind the other; a CPU lays them so by itself, so by columns here. Trained,
    saved, stopped after an epoch, resumed, judged."""
    file, words = worlds.config("gru4rec"), ["--training.epochs", "2"]
    monkeypatch.setattr(parallel, "platform_of", lambda device: "tpu")

    def laid(layout: Layout) -> None:
        for module in (blocks, states):
            monkeypatch.setattr(module, "ROWS", layout)

    laid(Layout(major_to_minor=(0, 1)))
    train(configuration.load(file, words), tmp_path / "rows")
    laid(Layout(major_to_minor=(1, 0)))
    config = configuration.load(file, words)
    task = make_task(config, open_dataset(config.data.path))
    item: Any = Training(config, task.model, task.feed).begin().tables["item"]
    assert item.format.layout.major_to_minor == (1, 0)
    with pytest.raises(SystemExit):
        train(config, tmp_path / "columns", report=stop)
    train(config, tmp_path / "columns", resume=True)
    one, other = (jax.tree.map(np.asarray, load(tmp_path / run).weights) for run in ("rows", "columns"))
    assert apart(one, other) < 1e-5
