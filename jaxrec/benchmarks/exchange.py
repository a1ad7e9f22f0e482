"""Bytes that a step exchanges at eight devices: the rows compiled, not run, for virtual CPU devices.

JAX fixes the number of its devices when it starts, so the benchmark calls itself in a process of its own. Counted are
the collectives of the compiled program, the text of ``compiled.as_text()``: optimised HLO after partitioning, so that
shapes are those of one device. XLA's compiler for CPUs starts and ends a collective in one instruction.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxrec.benchmarks.case import Prepared
from jaxrec.benchmarks.sweep import Job, jobs
from jaxrec.cli.command import progress
from jaxrec.errors import UserError
from jaxrec.ops import parallel
from jaxrec.training.block import TrainState, lay_out

DEVICES = 8
OPTION = "--collectives"  # of the script, for the process of its own
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
         "ragged-all-to-all")  # fmt: skip

_OPENING = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_WHOLE_CONSTANT = re.compile(r"^[su]\d+\[\]$")


def add_exchanged(rows: list[dict[str, Any]], script: Path, argv: Sequence[str]) -> None:
    """Give each row ``exchanged_per_step``, bytes by kind of collective; None, with a note on stderr, of a row that
    cannot be spread over the devices.

    Args:
        script: that calls ``compile_all`` when it is given ``OPTION``.
        argv: the words that the rows were asked for with.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        # Machine code is not run: that it is bad does no harm.
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES} "
                     "--xla_backend_optimization_level=0",
    }  # fmt: skip
    with progress(f"compiling for {DEVICES} devices"):
        line = [sys.executable, str(script), *argv, OPTION]
        run = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        found = [{"why": f"exit status {run.returncode}: {last}"}] * len(rows)
    else:
        found = json.loads(run.stdout)
    for row, one in zip(rows, found, strict=True):
        row |= {"exchanged_devices": DEVICES, "exchanged_per_step": one.get("bytes")}
    for why in dict.fromkeys(one["why"] for one in found if "why" in one):
        print(f"bytes exchanged at {DEVICES} devices: {why}", file=sys.stderr)


def compile_all(options: Any) -> list[dict[str, Any]]:
    """What each row exchanges, in a process with ``DEVICES`` devices.

    Returns:
        ``{"bytes": {kind: bytes}}`` of each row, or ``{"why": ...}``.
    """
    return [_compile(job) for job in jobs(argparse.Namespace(**vars(options) | {"devices": DEVICES}))]


def _compile(job: Job) -> dict[str, Any]:
    if job.options.batch % DEVICES:
        return {"why": f"a batch of {job.options.batch} does not divide by {DEVICES}"}
    try:
        prepared = job.prepare()
        text = prepared.compiled(*_shapes(prepared)).as_text() or ""
        return {"bytes": exchanged(text, prepared.feed.shape.steps)}
    except (UserError, ValueError) as error:
        return {"why": str(error)}


def _shapes(prepared: Prepared) -> tuple[TrainState, Any]:
    """Shapes and places of state and constants: eight copies of a large table would not fit everywhere."""

    def replicated(tree: Any) -> Any:
        everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), tree)

    mesh, state = prepared.feed.mesh, jax.eval_shape(prepared.training.begin)
    dealt = partial(parallel.like, mesh=mesh)
    return lay_out(state, prepared.model, replicated, dealt), replicated(prepared.constants)


# ---- the program -----------------------------------------------------------------------------------------------------


def exchanged(hlo: str, steps: int) -> dict[str, float]:
    """Bytes that a step exchanges, by kind of collective.

    Counted is a collective's result on one device: of an all-reduce and an all-gather the whole array, of a
    reduce-scatter the device's part. What goes over the wires depends on how the machine does it (a ring sends an
    all-reduce's result not quite twice). In the loop over steps a collective counts once a step, in a loop within a
    step as often as it turns, before and after the loops a ``steps``-th.

    Args:
        hlo: a block's optimised program.
        steps: of the block.

    Returns:
        bytes by kind, of ``KINDS``; empty where nothing is exchanged.

    Raises:
        ValueError: the text is no HLO module, or a loop with collectives does not say how often it turns.
    """
    return {kind: count / steps for kind, count in sorted(_Program(hlo).total.items())}


class _Instruction(NamedTuple):
    """``name = shape operation(rest``."""

    name: str
    shape: str
    operation: str
    rest: str

    def named(self, attribute: str) -> str:
        """The computation that an attribute names."""
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.rest)
        if found is None:
            raise ValueError(f"{self.name}: a {self.operation} without {attribute}")
        return found[1]


class _Program:
    """The computations of a module by name."""

    def __init__(self, hlo: str) -> None:
        self._computations: dict[str, list[_Instruction]] = {}
        self._known: dict[str, Counter[str]] = {}
        entry, current = "", []
        for line in hlo.splitlines():
            if opening := _OPENING.match(line):
                current = self._computations[opening[2]] = []
                entry = opening[2] if opening[1] else entry
            elif match := _INSTRUCTION.match(line):
                current.append(_Instruction(*match.groups()))
        if not entry:
            raise ValueError("no HLO module: it has no ENTRY computation")
        self.total = self._bytes(entry)

    def _bytes(self, computation: str) -> Counter[str]:
        """Bytes of one run of a computation, by kind of collective."""
        if computation not in self._known:
            parts = [self._bytes_of(one) for one in self._computations[computation]]
            self._known[computation] = sum(parts, Counter())
        return self._known[computation]

    def _bytes_of(self, one: _Instruction) -> Counter[str]:
        if one.operation in KINDS:
            return Counter({one.operation: _size(one.shape)})
        if one.operation == "while":
            turn = self._bytes(one.named("body")) + self._bytes(one.named("condition"))
            times = self._trips(one) if turn else 0
            return Counter({kind: times * count for kind, count in turn.items()})
        called = [self._bytes(name) for name in _CALLED.findall(one.rest) if name in self._computations]
        if one.operation == "conditional":  # one of them runs: the dearest
            if names := _BRANCHES.search(one.rest):
                called += [self._bytes(name.strip(" %")) for name in names[1].split(",")]
            return max(called, key=lambda counts: counts.total(), default=Counter())
        return sum(called, Counter())

    def _trips(self, loop: _Instruction) -> int:
        """How often a loop turns: as the compiler found out, or the constant below which its counter, from 0, stays."""
        if known := _KNOWN_TRIPS.search(loop.rest):
            return int(known[1])
        condition = self._computations[loop.named("condition")]
        inner = [name for one in condition for name in _CALLED.findall(one.rest)]
        instructions = [*condition, *(one for name in inner for one in self._computations.get(name, []))]
        below = [one for one in instructions if one.operation == "compare" and "direction=LT" in one.rest]
        whole = [one for one in instructions if one.operation == "constant" and _WHOLE_CONSTANT.match(one.shape)]
        if len(below) == 1 and len(whole) == 1:
            return int(whole[0].rest.split(")")[0])
        raise ValueError(f"{loop.name}: a loop with collectives that does not say how often it turns")


def _size(shape: str) -> int:
    """Bytes of an array or a tuple: ``f32[8,2]{1,0}``, ``(bf16[4], pred[])``."""
    bits = 0
    for kind, width, sides in _ARRAY.findall(re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", shape)):
        each = 8 if kind == "pred" else int(width or 0)  # a token has none
        bits += each * math.prod(int(side) for side in sides.replace("<=", "").split(",") if side)
    return -(-bits // 8)
