"""Training throughput on synthetic sessions, beside what the machine could do.

    python scripts/benchmark.py gru4rec --batch 32 128 512 --json out.json

Each row is the training loop's own compiled block on blocks of its own feed, cut beforehand: the median of several
repetitions, without compilation. FLOP and bytes a step are counted from the shapes: those that the algorithm needs,
not those that happen to be executed. Shares are of a matrix-product and a copy ceiling measured just before.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import config as configuration
from jaxrec import runtime
from jaxrec.cli import Parser, command, progress
from jaxrec.config import Config
from jaxrec.data.dataset import Sessions
from jaxrec.data.feed import Block, SessionFeed
from jaxrec.models import make_model
from jaxrec.negatives import popularity
from jaxrec.optimizers import make_optimizer, make_schedule
from jaxrec.rundir import write_text
from jaxrec.training import init_state, make_train_block

MEAN_LENGTH = 5  # clicks a session, about that of Diginetica


def synthetic_sessions(n_items: int, events: int, seed: int = 0) -> Sessions:
    """Sessions of geometric length whose items are independent with Zipf popularity (exponent 0.8)."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / (MEAN_LENGTH - 1), max(1, events // MEAN_LENGTH)) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    edges = np.cumsum(np.arange(1, n_items + 1) ** -0.8)
    items = np.searchsorted(edges / edges[-1], rng.random(offsets[-1])).astype(np.int32)
    return Sessions(np.minimum(items, n_items - 1), np.zeros(offsets[-1], np.int64), offsets)


def gru4rec_config(options: Any, batch: int, loss: str) -> Config:
    """GRU4Rec as the literature benchmarks it: one layer, constrained embedding, Adagrad."""
    return configuration.parse({
        "data": {"path": "synthetic"},
        "model": {"name": "gru4rec", "layers": [options.units]},
        "loss": {"name": loss, "n_sample": options.n_sample},
        "training": {"batch_size": batch, "steps_per_block": options.steps},
    })  # fmt: skip


def gru4rec_work(config: Config) -> tuple[int, int]:
    """FLOP and bytes of one step.

    FLOP: scores and their two derivatives; the GRU's two products, their weights' derivatives and the input's (that of
    the carried state is cut). Bytes: the rows asked for, duplicates and all, and their accumulators, each read and
    written once.
    """
    batch, units = config.training.batch_size, config.model.layers[-1]
    candidates = batch + config.loss.n_sample
    scores = 3 * 2 * batch * candidates * (units + 1)
    gru = 5 * 2 * batch * units * 3 * units
    rows = candidates + batch
    return scores + gru, 4 * rows * (units + 1) * 4


def median_time(call: Callable[[], Any], repetitions: int) -> float:
    """Median seconds of a call, after one that does not count."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """What the device reaches on a large float32 matrix product (GFLOP/s) and on memory (GB/s, read and written)."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(jnp.matmul)
    flop_rate = 2 * n**3 / median_time(lambda: product(a, a), 7)
    long = jnp.ones((2**26 if jax.default_backend() == "cpu" else 2**29,), jnp.float32)
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)  # in place: a fresh buffer would measure page faults

    def copy() -> Any:
        nonlocal long
        long = add(long)
        return long

    byte_rate = 2 * long.nbytes / median_time(copy, 7)
    return {"matmul_gflop_per_s": flop_rate / 1e9, "copy_gb_per_s": byte_rate / 1e9}


class Case:
    """One row of the table: the compiled block with its state and an endless feed."""

    def __init__(self, config: Config, sessions: Sessions, n_items: int) -> None:
        settings = config.training
        self._feed = SessionFeed(sessions, settings.batch_size, settings.steps_per_block, "random", 0, 2**40)
        model = make_model(config, n_items)
        optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 1))
        self._state = init_state(model, optimizer, 0, settings.batch_size)
        self._constants = model.constants(popularity(sessions.items, n_items))
        self._blocks = self._endless()
        begin = time.perf_counter()
        train_block = make_train_block(model, optimizer, None)
        self._compiled = train_block.lower(self._state, self._constants, self._feed.like()).compile()
        self.compile_seconds = time.perf_counter() - begin

    def steps_per_second(self, steps: int) -> float:
        """Time whole blocks, at least ``steps`` steps; an epoch's last block, which has some padding, is left out."""
        blocks = -(-steps // self._feed.shape.steps)
        ready = list(itertools.islice(self._blocks, blocks))
        jax.block_until_ready((ready, self._state))
        begin = time.perf_counter()
        for block in ready:
            self._state, stats = self._compiled(self._state, self._constants, block)
        jax.block_until_ready((self._state, stats))
        return blocks * self._feed.shape.steps / (time.perf_counter() - begin)

    def _endless(self) -> Iterator[Block]:
        full = max(1, self._feed.shape.blocks - 1)
        for epoch in itertools.count():
            yield from itertools.islice(self._feed.epoch(epoch), full)


def measure(options: Any) -> list[dict[str, Any]]:
    """All rows of the sweep. Repetitions go round over the rows, so that a drift of the machine meets all alike."""
    tops = ceilings()
    sweep = list(itertools.product(options.items, options.loss, options.batch))
    cases = []
    with progress("compiling", len(sweep)) as advance:
        for n_items, loss, batch in sweep:
            config = gru4rec_config(options, batch, loss)
            sessions = synthetic_sessions(n_items, max(2 * n_items, 3 * batch * options.steps * MEAN_LENGTH // 4))
            cases.append((config, n_items, Case(config, sessions, n_items)))
            cases[-1][2].steps_per_second(options.steps)  # the first run warms caches and does not count
            advance()
    rates: list[list[float]] = [[] for _ in cases]
    with progress("measuring", options.repetitions * len(cases)) as advance:
        for _ in range(options.repetitions):
            for (_, _, case), found in zip(cases, rates, strict=True):
                found.append(case.steps_per_second(options.steps))
                advance()
    if options.profile:
        with jax.profiler.trace(options.profile):
            for _, _, case in cases:
                case.steps_per_second(options.steps)
    return [_row(*case, found, tops) for case, found in zip(cases, rates, strict=True)]


def _row(config: Config, n_items: int, case: Case, rates: list[float], tops: dict[str, float]) -> dict[str, Any]:
    rate, (flop, size) = statistics.median(rates), gru4rec_work(config)
    batch = config.training.batch_size
    return {
        "model": config.model.name,
        "loss": config.loss.name,
        "batch": batch,
        "items": n_items,
        "units": config.model.layers[-1],
        "n_sample": config.loss.n_sample,
        "steps_per_s": round(rate, 2),
        "steps_per_s_min": round(min(rates), 2),
        "steps_per_s_max": round(max(rates), 2),
        "events_per_s": round(rate * batch, 1),
        "flop_per_step": flop,
        "bytes_per_step": size,
        "gflop_per_s": round(flop * rate / 1e9, 2),
        "matmul_share": round(flop * rate / 1e9 / tops["matmul_gflop_per_s"], 4),
        "copy_share": round(size * rate / 1e9 / tops["copy_gb_per_s"], 4),
        "compile_s": round(case.compile_seconds, 2),
        **{f"ceiling_{name}": round(value, 2) for name, value in tops.items()},
    }


def table(machine: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The rows for people."""
    head = f"{machine['device']} ({machine['platform']} x {machine['devices']}, {machine['cpu_cores']} cores), "
    lines = [head + f"jax {machine['jax']}, Python {machine['python']}"]
    lines.append(f"ceilings: {rows[0]['ceiling_matmul_gflop_per_s']:,.0f} GFLOP/s matrix product, "
                 f"{rows[0]['ceiling_copy_gb_per_s']:,.1f} GB/s copy")  # fmt: skip
    lines.append(f"{'loss':14}{'batch':>6}{'items':>10}{'steps/s':>10}{'(min - max)':>18}{'events/s':>12}"
                 f"{'MFLOP/step':>12}{'of matmul':>10}{'of copy':>9}{'compile':>9}")  # fmt: skip
    for row in rows:
        spread = f"({row['steps_per_s_min']:,.0f} - {row['steps_per_s_max']:,.0f})"
        lines.append(
            f"{row['loss']:14}{row['batch']:6}{row['items']:10,}{row['steps_per_s']:10,.0f}{spread:>18}"
            f"{row['events_per_s']:12,.0f}{row['flop_per_step'] / 1e6:12,.0f}{row['matmul_share']:10.1%}"
            f"{row['copy_share']:9.1%}{row['compile_s']:8.1f}s"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = Parser(prog="python scripts/benchmark.py", description=__doc__)
    parser.add_argument("model", choices=["gru4rec"], help="what to train")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128, 512], help="lanes (default: 32 128 512)")
    losses = ["cross_entropy", "bpr", "top1", "bpr_max", "top1_max"]
    parser.add_argument("--loss", nargs="+", choices=losses, default=["cross_entropy", "bpr_max"],
                        help="losses (default: cross_entropy bpr_max)")  # fmt: skip
    parser.add_argument("--items", type=int, nargs="+", default=[40_000], help="catalogue sizes (default: 40000)")
    parser.add_argument("--units", type=int, default=100, help="GRU units and item vector width (default: 100)")
    parser.add_argument("--n-sample", type=int, default=2048, help="drawn negatives (default: 2048)")
    parser.add_argument("--steps", type=int, default=200, help="steps a repetition, and at most a block (default: 200)")
    parser.add_argument("--repetitions", type=int, default=7, help="of which the median counts (default: 7)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there as well")
    parser.add_argument("--profile", metavar="DIR", help="write a jax.profiler trace of one repetition there")
    options = parser.parse_args(argv)
    for name in ("batch", "items", "units", "steps", "repetitions"):
        if np.min(getattr(options, name)) < 1:
            parser.error(f"--{name} {np.min(getattr(options, name))}: expected whole numbers from 1")
    if options.n_sample < 0:
        parser.error(f"--n-sample {options.n_sample}: expected a whole number from 0")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        parser.error(f"--json {options.json}: no such directory; make it first")
    runtime.start()
    machine, rows = runtime.machine(), measure(options)
    print(table(machine, rows))
    if options.json:
        write_text(Path(options.json), json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(command(main))
