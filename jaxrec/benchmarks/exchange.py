"""Bytes that a step exchanges at eight devices: the rows compiled, not run, for virtual CPU devices, in a process of
its own, since JAX fixes the number of its devices when it starts."""

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
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxrec.benchmarks.sizes import prepare
from jaxrec.benchmarks.sweep import jobs
from jaxrec.cli.command import progress
from jaxrec.errors import UserError
from jaxrec.ops import parallel
from jaxrec.training.block import lay_out

DEVICES = 8
OPTION = "--collectives"  # of the script, for the process of its own
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
         "ragged-all-to-all")  # fmt: skip

_OPENING = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(?:\{([^}]*)\}|([%\w.-]+))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def add_exchanged(rows: list[dict[str, Any]], script: Path, argv: Sequence[str]) -> None:
    """Give each row ``exchanged_per_step``, bytes by kind of collective; None, with a note on stderr, of a row that
    cannot be spread over the devices. The ``script`` calls ``compile_all`` when it is given ``OPTION``."""
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"  # it is not run
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
    with progress(f"compiling for {DEVICES} devices"):
        line = [sys.executable, str(script), *argv, OPTION]
        run = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, check=False)
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
    """``{"bytes": {kind: bytes}}`` of each row, or ``{"why": ...}``, in a process with ``DEVICES`` devices."""
    return [_compile(*job) for job in jobs(argparse.Namespace(**vars(options) | {"devices": DEVICES}))]


def _compile(model: str, options: Any) -> dict[str, Any]:
    if options.batch % DEVICES:
        return {"why": f"a batch of {options.batch} does not divide by {DEVICES}"}
    try:
        prepared = prepare(model, options)
        mesh = prepared.feed.mesh
        everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())

        def replicated(tree: Any) -> Any:  # shapes and places: eight copies of a large table would not fit everywhere
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), tree)

        state = jax.eval_shape(prepared.training.begin)
        state = lay_out(state, prepared.model, replicated, partial(parallel.like, mesh=mesh))
        text = prepared.compiled(state, replicated(prepared.constants)).as_text() or ""
        return {"bytes": exchanged(text, prepared.feed.shape.steps)}
    except (UserError, ValueError) as error:
        return {"why": str(error)}


def exchanged(hlo: str, steps: int) -> dict[str, float]:
    """Bytes a step by kind of collective, of a block's optimised HLO: results on one device; the dearest branch."""
    computations: dict[str, list[tuple[str, str, str]]] = {}
    entry, current = "", list[tuple[str, str, str]]()
    for line in hlo.splitlines():
        if opening := _OPENING.match(line):
            current = computations[opening[2]] = []
            entry = opening[2] if opening[1] else entry
        elif match := _INSTRUCTION.match(line):
            current.append((match[1], match[2], match[3]))
    if not entry:
        raise ValueError("no HLO module: it has no ENTRY computation")

    @cache
    def count(computation: str) -> Counter[str]:
        return sum((count_one(*one) for one in computations.get(computation, ())), Counter())

    def count_one(shape: str, operation: str, rest: str) -> Counter[str]:
        if operation in KINDS:
            return Counter({operation: _size(shape)})
        called = [count(name.strip(" %")) for names in _CALLED.findall(rest) for name in "".join(names).split(",")]
        if operation == "conditional":
            return max(called, key=Counter.total, default=Counter())
        total = sum(called, Counter[str]())
        if operation == "while" and total:
            if not (trips := _TRIPS.search(rest)):
                raise ValueError("a loop with collectives does not say how often it turns")
            return Counter({kind: int(trips[1]) * number for kind, number in total.items()})
        return total

    return {kind: number / steps for kind, number in sorted(count(entry).items())}


def _size(shape: str) -> int:
    """Bytes of an array or a tuple: ``f32[8,2]{1,0}``, ``(bf16[4], pred[])``."""
    bits = 0
    for kind, width, sides in _ARRAY.findall(re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", shape)):
        each = 8 if kind == "pred" else int(width or 0)  # a token has none
        bits += each * math.prod(int(side) for side in sides.replace("<=", "").split(",") if side)
    return -(-bits // 8)
