"""What a run of sessions or events takes on each of several virtual devices of a CPU, stage by stage: it is trained for
some blocks, saved, restored, judged by a sample of its validation sessions, and asked for recommendations.

    JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 python scripts/rehearse.py --config configs/gru4rec_diginetica.yaml \\
        --run /tmp/rehearsal --blocks 3 --sessions 2000 --data.path data/large --mesh.data 1 --mesh.model 8
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import Query, Recommender
from jaxrec import config as configuration
from jaxrec.cli.command import Parser, command
from jaxrec.data.dataset import Dataset, open_dataset
from jaxrec.errors import UserError
from jaxrec.run import create_run
from jaxrec.tasks.base import cutoffs, make_task
from jaxrec.tasks.events.task import event_judge
from jaxrec.tasks.sessions.task import session_judge, session_splits
from jaxrec.training.block import Training
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.state import rows_of

STATUS = Path(f"/proc/{os.getpid()}/status")


def held(name: str) -> float:
    """GB of this process, ``VmRSS`` now or ``VmHWM`` at most."""
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e9


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Print how long it took, and what the process held at its end and at most."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    begin, before = time.perf_counter(), held("VmRSS")
    yield
    print(f"{title:<28} {time.perf_counter() - begin:8.1f} s; GB before {before:6.2f}, at most {held('VmHWM'):6.2f}, "
          f"after {held('VmRSS'):6.2f}", flush=True)  # fmt: skip


def on_devices(tree: Any) -> tuple[int, int]:
    """Bytes of arrays on the device that has most of them, and of all arrays as if they were once."""
    devices, whole = Counter[Any](), 0
    for leaf in jax.tree.leaves(tree):
        whole += leaf.nbytes
        for shard in leaf.addressable_shards:
            devices[shard.device] += shard.data.nbytes
    return max(devices.values(), default=0), whole


def say(title: str, tree: Any) -> None:
    one, whole = on_devices(tree)
    print(
        f"{title:<28} {one / 1e9:.3f} GB on a device, {whole / 1e9:.3f} GB once: {one / max(whole, 1):.4f}", flush=True
    )


def rehearse(options: argparse.Namespace, config: configuration.Config) -> None:
    dataset = open_dataset(config.data.path)
    assert isinstance(dataset, Dataset), "of sessions"
    with stage("data, model, feed"):
        task = make_task(config, dataset)
        training = Training(config, task.model, task.feed)
    with stage("constants"):
        constants = training.constants(task.constants)
        say("constants", constants)
    with stage("state"):
        state = jax.block_until_ready(training.begin())
    say("tables", state.tables)
    say("optimizer", state.table_optimizer)
    with stage("compiling"):
        compiled = training.block.lower(state, constants, task.feed.like()).compile()
    with stage(f"{options.blocks} blocks of {task.feed.shape.steps} steps"):
        for _, block in zip(range(options.blocks), task.feed.epoch(0), strict=False):
            state, stats = compiled(state, constants, block)
            jax.block_until_ready(stats)
    run = create_run(Path(options.run), config, dataset, True, task.kept, task.copied)
    checkpoints = Checkpoints(run.path, rows_of(task.model))
    with stage("saving"):
        checkpoints.save(state, {})
    with stage("restoring"):
        restored = checkpoints.restore(state)
        assert restored is not None
    del restored
    held_out = session_splits(config, dataset).validation
    chosen = held_out.pick(np.arange(min(options.sessions, len(held_out))))
    if not len(chosen):
        raise UserError("data.validation_fraction: 0 leaves nothing to judge; give a share, such as 0.05")
    model: Any = task.model
    if config.model.task == "events":
        judge = event_judge(model, chosen, config.evaluation, task.kept["item_counts"] > 0)
    else:
        judge = session_judge(model, chosen, dataset.n_items, config.evaluation)
    with stage(f"validating {judge.targets} targets"):
        print(judge(training.served(state), cutoffs(config)).metrics)
    del state, constants, training, compiled
    with stage("loading to recommend"):
        recommender = Recommender.load(run.path)
    ids, types = run.vocabulary().ids.decode(np.arange(5)), dataset.manifest.get("event_types")
    query = Query(events=[{"item": one, "event": types[0]} for one in ids]) if types else Query(ids)
    with stage("a recommendation"):
        print([item.id for item in recommender.recommend(query, 5).items])


def main(argv: Sequence[str]) -> None:
    parser = Parser(prog="python scripts/rehearse.py", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE")
    parser.add_argument("--run", required=True, metavar="DIR", help="a run directory, which is written anew")
    parser.add_argument("--blocks", type=int, default=3, metavar="N", help="of training (default: 3)")
    parser.add_argument("--sessions", type=int, default=2000, metavar="N", help="of validation (default: 2000)")
    options, overrides = parser.parse_known_args(argv)
    rehearse(options, configuration.load(options.config, overrides))


if __name__ == "__main__":
    sys.exit(command(main))
