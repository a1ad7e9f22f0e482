"""Training throughput on synthetic sessions, beside what the machine could do.

    python scripts/benchmark.py gru4rec --batch 32 128 512 --json out.json
    python scripts/benchmark.py narm sasrec
    python scripts/benchmark.py softmax                  # the output layer alone, beside the plain formula

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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import config as configuration
from jaxrec import runtime
from jaxrec.cli import Parser, command, progress
from jaxrec.config import Config
from jaxrec.data.dataset import Sessions
from jaxrec.models import make_model
from jaxrec.negatives import popularity
from jaxrec.optimizers import make_optimizer, make_schedule
from jaxrec.rundir import write_text
from jaxrec.softmax import Softmax, softmax_cross_entropy
from jaxrec.training import make_train_block, new_state, training_plan

MEAN_LENGTH = 5  # clicks a session, about that of Diginetica


def synthetic_sessions(n_items: int, events: int, seed: int = 0) -> Sessions:
    """Sessions of geometric length whose items are independent with Zipf popularity (exponent 0.8)."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / (MEAN_LENGTH - 1), max(1, events // MEAN_LENGTH)) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    edges = np.cumsum(np.arange(1, n_items + 1) ** -0.8)
    items = np.searchsorted(edges / edges[-1], rng.random(offsets[-1])).astype(np.int32)
    return Sessions(np.minimum(items, n_items - 1), np.zeros(offsets[-1], np.int64), offsets)


class Size(NamedTuple):
    """What the literature benchmarks a model at, where the command line does not say otherwise."""

    batch: tuple[int, ...]
    loss: tuple[str, ...]
    items: int
    dim: int


SIZES = {
    "gru4rec": Size((32, 128, 512), ("cross_entropy", "bpr_max"), 40_000, 100),
    "narm": Size((512,), ("softmax",), 43_097, 50),
    "sasrec": Size((512,), ("softmax",), 43_097, 50),
}
CALLS = 5  # of the output layer in one compiled loop
ADAM = {"name": "adam", "learning_rate": 0.001}


def make_config(options: Any, model: str, batch: int, loss: str) -> Config:
    """The models as published: GRU4Rec with one layer, constrained embedding and Adagrad; NARM with as many units as
    ``--units`` says (100) over vectors of 50, SASRec with two blocks of one head, both with dropout and Adam."""
    dim = options.dim or SIZES[model].dim
    softmax = {"name": loss, "precision": options.precision}
    sections: dict[str, dict[str, Any]] = {
        "data": {"path": "synthetic"},
        "model": {"name": model, "embedding_dim": dim},
        "loss": softmax if loss == "softmax" else {"name": loss, "n_sample": options.n_sample},
        "training": {"batch_size": batch, "steps_per_block": options.steps},
    }
    if model != "sasrec":
        sections["model"]["layers"] = [options.units]
    if model != "gru4rec":
        sections["model"] |= {"dropout_embedding": 0.25, "dropout_hidden": 0.5}
        sections["optimizer"] = ADAM
    return configuration.parse(sections)


def work(config: Config, targets: float, positions: int, n_items: int) -> tuple[int, int]:
    """FLOP and bytes of one step.

    FLOP: scores and their two derivatives, and three times the encoder's products (GRU4Rec: five of six, since the
    derivative of the carried state is cut). Bytes: the rows asked for, duplicates and all, or a dense table whole, with
    their optimizer's state and, if dense, the derivative; each read and written once.

    Args:
        targets: queries of a step.
        positions: that the encoder reads.
    """
    model, batch = config.model, config.training.batch_size
    units, moments = model.layers[-1], 2 if config.optimizer.name == "adam" else 1
    if model.name == "gru4rec":
        width, rows = units + 1, 2 * batch + config.loss.n_sample
        encoder = 5 * 2 * batch * units * 3 * units
    else:
        width, rows = model.embedding_dim, 2 * batch + config.loss.n_sample
        if model.name == "narm":
            of_positions = (width + units) * 3 * units + units * units  # GRU, keys
            # Last state, decoder; energies and mixing with half a window on average.
            of_targets = units * units + 2 * units * width + units * model.window
        else:
            of_positions = model.blocks * (5 * width * width + width * model.window)
            of_targets = 0
        encoder = round(3 * 2 * (positions * of_positions + targets * of_targets))
    dense = config.loss.name == "softmax"
    columns = n_items if dense else batch + config.loss.n_sample
    flop = 3 * 2 * targets * columns * width + encoder
    return int(flop), 4 * (n_items * width * (2 + moments) if dense else rows * width * (1 + moments)) * 2


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
        self.config, self.n_items = config, n_items
        model = make_model(config, n_items)
        self._feed = model.feed(sessions, training_plan(config))
        optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 1))
        self._state = new_state(config, model, optimizer)
        self._constants = model.constants(popularity(sessions.items, n_items))
        self._blocks = self._endless()
        begin = time.perf_counter()
        train_block = make_train_block(model, optimizer, None)
        self._compiled = train_block.lower(self._state, self._constants, self._feed.like()).compile()
        self.compile_seconds = time.perf_counter() - begin
        self.targets = self._feed.pairs / self._feed.shape.used
        grid = jax.tree.leaves(self._feed.like())[0].shape
        self.positions = int(np.prod(grid[1:]))
        memory = self._compiled.memory_analysis()
        self.step_memory = int(memory.temp_size_in_bytes) if memory is not None else 0

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

    def _endless(self) -> Iterator[Any]:
        full = max(1, self._feed.shape.blocks - 1)
        for epoch in itertools.count():
            yield from itertools.islice(self._feed.epoch(epoch), full)


def measure(options: Any) -> list[dict[str, Any]]:
    """All rows of the sweep. Repetitions go round over the rows, so that a drift of the machine meets all alike."""
    tops = ceilings()
    sweep = [
        (model, *rest)
        for model in options.models
        for rest in itertools.product(
            options.items or [SIZES[model].items],
            options.loss or SIZES[model].loss,
            options.batch or SIZES[model].batch,
        )
    ]
    cases = []
    with progress("compiling", len(sweep)) as advance:
        for model, n_items, loss, batch in sweep:
            config = make_config(options, model, batch, loss)
            sessions = synthetic_sessions(n_items, max(2 * n_items, 3 * batch * options.steps * MEAN_LENGTH // 4))
            cases.append(Case(config, sessions, n_items))
            cases[-1].steps_per_second(options.steps)  # the first run warms caches and does not count
            advance()
    rates: list[list[float]] = [[] for _ in cases]
    with progress("measuring", options.repetitions * len(cases)) as advance:
        for _ in range(options.repetitions):
            for case, found in zip(cases, rates, strict=True):
                found.append(case.steps_per_second(options.steps))
                advance()
    if options.profile:
        with jax.profiler.trace(options.profile):
            for case in cases:
                case.steps_per_second(options.steps)
    return [_row(case, found, tops) for case, found in zip(cases, rates, strict=True)]


def _row(case: Case, rates: list[float], tops: dict[str, float]) -> dict[str, Any]:
    config, rate = case.config, statistics.median(rates)
    flop, size = work(config, case.targets, case.positions, case.n_items)
    gru4rec = config.model.name == "gru4rec"
    return {
        "model": config.model.name,
        "loss": config.loss.name,
        "batch": config.training.batch_size,
        "items": case.n_items,
        "units": config.model.layers[-1],
        "dim": config.model.layers[-1] if gru4rec else config.model.embedding_dim,
        "n_sample": config.loss.n_sample,
        "precision": config.loss.precision,
        "steps_per_s": round(rate, 2),
        "steps_per_s_min": round(min(rates), 2),
        "steps_per_s_max": round(max(rates), 2),
        "targets_per_step": round(case.targets, 1),
        "events_per_s": round(rate * (config.training.batch_size if gru4rec else case.targets), 1),
        "flop_per_step": flop,
        "bytes_per_step": size,
        "gflop_per_s": round(flop * rate / 1e9, 2),
        "matmul_share": round(flop * rate / 1e9 / tops["matmul_gflop_per_s"], 4),
        "copy_share": round(size * rate / 1e9 / tops["copy_gb_per_s"], 4),
        "compile_s": round(case.compile_seconds, 2),
        "step_memory_mb": round(case.step_memory / 1e6, 3),
        **{f"ceiling_{name}": round(value, 2) for name, value in tops.items()},
    }


def output_layer(options: Any) -> list[dict[str, Any]]:
    """The loss over the whole catalogue with its derivatives, alone: in blocks, and as automatic differentiation of the
    plain formula. Milliseconds a call within a compiled loop, as in training; and what is held beside the arguments."""
    rows, width = [], options.dim or SIZES["narm"].dim
    for n_items, batch in itertools.product(options.items or [SIZES["narm"].items], options.batch or [512]):
        keys = jax.random.split(jax.random.key(0), 3)
        queries, items = jax.random.normal(keys[0], (batch, width)), jax.random.normal(keys[1], (n_items, width)) / 10
        target = jax.random.randint(keys[2], (batch,), 0, n_items)

        def plain(q: Any, e: Any, target: Any = target) -> Any:
            scores = q @ e.T
            own = jnp.take_along_axis(scores, target[:, None], axis=1)[:, 0]
            return jnp.sum(jax.nn.logsumexp(scores, axis=1) - own)

        def blocks(how: Softmax, q: Any, e: Any, target: Any = target) -> Any:
            return softmax_cross_entropy(how, q, e, target, jnp.ones(len(q)))

        ways: dict[str, Callable[..., Any]] = {"plain formula": plain}
        ways |= {f"blocks, {memory} MiB": partial(blocks, Softmax(memory)) for memory in (16, 64, 256)}
        ways["blocks, 64 MiB, bfloat16"] = partial(blocks, Softmax(64, "bfloat16"))
        compiled = {name: _calls(way).lower(queries, items).compile() for name, way in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _, (name, call) in itertools.product(range(options.repetitions + 1), compiled.items()):
            begin = time.perf_counter()
            jax.block_until_ready(call(queries, items))
            times[name].append(1000 * (time.perf_counter() - begin) / CALLS)
        for name, found in times.items():
            memory = compiled[name].memory_analysis()
            held = round(memory.temp_size_in_bytes / 1e6, 1) if memory is not None else 0.0
            spread = {"ms": statistics.median(found[1:]), "ms_min": min(found[1:]), "ms_max": max(found[1:])}
            rows.append({"way": name, "batch": batch, "items": n_items, "dim": width, "memory_mb": held,
                         **{key: round(value, 2) for key, value in spread.items()}})  # fmt: skip
    return rows


def _calls(way: Callable[..., Any]) -> jax.stages.Wrapped:
    """``CALLS`` calls with derivatives, each depending on the one before so that none can be left out."""

    def one(at: Any, _: None) -> tuple[Any, Any]:
        value, slope = jax.value_and_grad(way, (0, 1))(*at)
        return jax.tree.map(lambda x, d: x - 1e-6 * d, at, slope), value

    return jax.jit(lambda q, e: jax.lax.scan(one, (q, e), None, length=CALLS))


def output_table(rows: list[dict[str, Any]]) -> str:
    """The rows of ``output_layer`` for people."""
    lines = [f"{'output layer':26}{'batch':>6}{'items':>10}{'dim':>5}{'ms':>9}{'(min - max)':>18}{'MB held':>10}"]
    for row in rows:
        spread = f"({row['ms_min']:,.1f} - {row['ms_max']:,.1f})"
        lines.append(f"{row['way']:26}{row['batch']:6}{row['items']:10,}{row['dim']:5}{row['ms']:9,.1f}{spread:>18}"
                     f"{row['memory_mb']:10,.1f}")  # fmt: skip
    return "\n".join(lines)


def table(machine: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The rows for people."""
    head = f"{machine['device']} ({machine['platform']} x {machine['devices']}, {machine['cpu_cores']} cores), "
    lines = [head + f"jax {machine['jax']}, Python {machine['python']}"]
    lines.append(f"ceilings: {rows[0]['ceiling_matmul_gflop_per_s']:,.0f} GFLOP/s matrix product, "
                 f"{rows[0]['ceiling_copy_gb_per_s']:,.1f} GB/s copy")  # fmt: skip
    lines.append(f"{'model':9}{'loss':14}{'batch':>6}{'items':>10}{'steps/s':>10}{'(min - max)':>18}{'events/s':>12}"
                 f"{'MFLOP/step':>12}{'of matmul':>10}{'of copy':>9}{'compile':>9}")  # fmt: skip
    for row in rows:
        spread = f"({row['steps_per_s_min']:,.0f} - {row['steps_per_s_max']:,.0f})"
        lines.append(
            f"{row['model']:9}{row['loss']:14}{row['batch']:6}{row['items']:10,}{row['steps_per_s']:10,.0f}{spread:>18}"
            f"{row['events_per_s']:12,.0f}{row['flop_per_step'] / 1e6:12,.0f}{row['matmul_share']:10.1%}"
            f"{row['copy_share']:9.1%}{row['compile_s']:8.1f}s"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = Parser(prog="python scripts/benchmark.py", description=__doc__)
    parser.add_argument("models", nargs="+", choices=[*SIZES, "softmax"], metavar="MODEL",
                        help=f"of {', '.join(SIZES)}; softmax: the output layer alone")  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+", default=[],
                        help="lanes, or targets a step (default: 32 128 512; narm, sasrec: 512)")  # fmt: skip
    parser.add_argument("--loss", nargs="+", choices=configuration.choices("loss.name"), default=[],
                        help="losses (default: cross_entropy bpr_max; narm, sasrec: softmax)")  # fmt: skip
    parser.add_argument("--items", type=int, nargs="+", default=[],
                        help="catalogue sizes (default: 40000; narm, sasrec: 43097, Diginetica's)")  # fmt: skip
    parser.add_argument("--units", type=int, default=100, help="GRU units; gru4rec: item vectors too (default: 100)")
    parser.add_argument("--dim", type=int, default=0, help="narm, sasrec: width of item vectors (default: 50)")
    parser.add_argument("--precision", choices=configuration.choices("loss.precision"), default="float32",
                        help="of the products of a full softmax (default: float32)")  # fmt: skip
    parser.add_argument("--n-sample", type=int, default=2048, help="drawn negatives (default: 2048)")
    parser.add_argument("--steps", type=int, default=200, help="steps a repetition, and at most a block (default: 200)")
    parser.add_argument("--repetitions", type=int, default=7, help="of which the median counts (default: 7)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there as well")
    parser.add_argument("--profile", metavar="DIR", help="write a jax.profiler trace of one repetition there")
    options = parser.parse_args(argv)
    for name in ("batch", "items", "units", "steps", "repetitions"):
        if np.min(getattr(options, name), initial=1) < 1:
            parser.error(f"--{name} {np.min(getattr(options, name))}: expected whole numbers from 1")
    if options.dim < 0:
        parser.error(f"--dim {options.dim}: expected a whole number from 1")
    if options.n_sample < 0:
        parser.error(f"--n-sample {options.n_sample}: expected a whole number from 0")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        parser.error(f"--json {options.json}: no such directory; make it first")
    runtime.start()
    result: dict[str, Any] = {"machine": runtime.machine()}
    alone = "softmax" in options.models
    options.models = [model for model in options.models if model != "softmax"]
    if options.models:
        result["rows"] = measure(options)
        print(table(result["machine"], result["rows"]))
    if alone:
        result["softmax"] = output_layer(options)
        print(output_table(result["softmax"]))
    if options.json:
        write_text(Path(options.json), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(command(main))
