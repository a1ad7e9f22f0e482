"""What is measured: the training loop's own compiled block on blocks of its own feed, in turns."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.benchmarks.sizes import SIZES, Prepared, prepare
from jaxrec.cli.command import progress
from jaxrec.ops import parallel

STEPS = 200  # a repetition
REPETITIONS = 5
COLUMNS = (
    "loss", "hard", "head", "batch", "items", "steps_per_s", "steps_per_s_min", "steps_per_s_max", "events_per_s",
    "matmul_share", "compile_s", "peak_memory_mb", "exchanged_per_step",
)  # fmt: skip
PEER_COLUMNS = ("peer", "model", "loss", "batch", "items", "steps_per_s", "events_per_s", "ratio", "ratios")


class Case:
    """A row: the compiled block with its state and an endless feed. Bytes on one device: ``step_memory`` beside
    arguments and results, ``peak_memory`` of all (XLA's ``peak_memory_in_bytes`` leaves the former out on CPUs)."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self._state = prepared, prepared.training.begin()
        self._constants = prepared.training.constants(prepared.constants)
        self._blocks = self._endless()
        self.flop = prepared.flop(self._state, self._constants)
        begin = time.perf_counter()
        self._compiled = prepared.compiled(self._state, self._constants)
        self.compile_seconds = time.perf_counter() - begin
        memory = self._compiled.memory_analysis()
        self.step_memory = int(memory.temp_size_in_bytes) if memory else 0
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes if memory else 0
        self.peak_memory = int(held) + self.step_memory

    @property
    def steps(self) -> int:
        """Of a repetition, at least."""
        return int(self.prepared.config.training.steps_per_block)

    def run(self) -> float:
        """Steps a second of a repetition: whole blocks, cut beforehand, without an epoch's padded last one."""
        feed, stats = self.prepared.feed, None
        blocks = list(itertools.islice(self._blocks, -(-self.steps // feed.shape.steps)))
        jax.block_until_ready((blocks, self._state))
        begin = time.perf_counter()
        for block in blocks:
            self._state, stats = self._compiled(self._state, self._constants, block)
            parallel.take_turns(stats, feed.mesh)
        jax.block_until_ready((self._state, stats))
        return len(blocks) * feed.shape.steps / (time.perf_counter() - begin)

    def _endless(self) -> Iterator[Any]:
        for epoch in itertools.count():
            yield from itertools.islice(self.prepared.feed.epoch(epoch), max(1, self.prepared.feed.shape.blocks - 1))


def jobs(options: Any) -> list[tuple[str, argparse.Namespace]]:
    """The rows: a model, and the options with its own values of those that give several."""
    on_cpu, found = jax.default_backend() == "cpu", []
    for model in options.models:
        size = SIZES[model]
        steps = options.steps or (on_cpu and size.cpu_steps) or STEPS
        choices = [getattr(options, name, None) or default for name, default in size.rows.items()]
        for values in itertools.product(*choices):
            own = dict(zip(size.rows, values, strict=True)) | {"steps": steps}
            found.append((model, argparse.Namespace(**vars(options) | own)))
    return found


def compile_cases(options: Any) -> list[Case]:
    """All rows of the sweep, compiled, and run once: that warms caches and does not count."""
    asked, cases = jobs(options), []
    with progress("compiling", len(asked)) as advance:
        for job in asked:
            cases.append(Case(prepare(*job)))
            cases[-1].run()
            advance()
    return cases


def measure(cases: Sequence[Case], options: Any) -> list[dict[str, Any]]:
    """The rows. Repetitions go round over them, so that a drift of the machine meets all alike."""
    top, repetitions = matmul_ceiling(), options.repetitions or REPETITIONS
    found: list[list[float]] = [[] for _ in cases]
    with progress("measuring", repetitions * len(cases)) as advance:
        for _ in range(repetitions):
            for case, rates in zip(cases, found, strict=True):
                rates.append(case.run())
                advance()
    return [_row(case, rates, top) for case, rates in zip(cases, found, strict=True)]


def _row(case: Case, rates: list[float], ceiling: float) -> dict[str, Any]:
    prepared, config = case.prepared, case.prepared.config
    shape, mesh = prepared.feed.shape, prepared.feed.mesh
    rate, devices = median(rates), 1 if mesh is None else mesh.size
    return {
        "model": config.model.name, "loss": config.loss.name, "batch": config.training.batch_size,
        "items": prepared.items, **prepared.shown, "devices": devices, "steps_per_block": shape.steps,
        "steps_per_s": round(rate, 2), "steps_per_s_min": round(min(rates), 2), "steps_per_s_max": round(max(rates), 2),
        "repetitions": len(rates), "targets_per_step": round(prepared.targets, 1),
        "events_per_s": round(rate * prepared.targets, 1),
        "flop_per_step": case.flop, "gflop_per_s": round(case.flop * rate / 1e9, 2),
        "matmul_share": round(case.flop * rate / 1e9 / ceiling / devices, 4),
        "compile_s": round(case.compile_seconds, 2), "step_memory_mb": round(case.step_memory / 1e6, 3),
        "peak_memory_mb": round(case.peak_memory / 1e6, 3),
        "ceiling_matmul_gflop_per_s": round(ceiling, 2),
    }  # fmt: skip


def matmul_ceiling() -> float:
    """GFLOP/s that the device reaches on a large float32 matrix product, the median of seven, warmed up."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a, product, times = jnp.ones((n, n), jnp.float32), jax.jit(jnp.matmul), list[float]()
    for _ in range(8):
        begin = time.perf_counter()
        jax.block_until_ready(product(a, a))
        times.append(time.perf_counter() - begin)
    return 2 * n**3 / median(times[1:]) / 1e9


# ---- as Markdown -----------------------------------------------------------------------------------------------------


def section(results: dict[str, Any]) -> str:
    """What ``scripts/benchmark.py --json`` writes, as Markdown: the machine, a table for each model, and the peers."""
    machine, rows = results["machine"], results["rows"]
    top = max(row["ceiling_matmul_gflop_per_s"] for row in rows)
    lines = [f"## {machine['device']}, {results['date']}", "", f"- `{results['command']}`",
             f"- {', '.join(f'{key} {each}' for key, each in machine.items())}",
             f"- ceiling: {top:,.0f} GFLOP/s of a large matrix product"]  # fmt: skip
    for model in dict.fromkeys(row["model"] for row in rows):
        lines += ["", f"### {model}", "", table([row for row in rows if row["model"] == model], COLUMNS)]
    if peers := results.get("peers"):
        lines += ["", "### Other people's code in the same sitting", "", table(peers, PEER_COLUMNS)]
    return "\n".join([*lines, ""])


def table(rows: Sequence[dict[str, Any]], columns: Iterable[str]) -> str:
    """Markdown of rows, aligned; columns in which no row has anything are left out."""
    names = [name for name in columns if any(row.get(name) is not None for row in rows)]
    cells = [[_shown(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # bytes by kind of collective
        return ", ".join(f"{kind} {_shown(number)}" for kind, number in value.items()) or "0"
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
