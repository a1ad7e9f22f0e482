"""Bytes that a step exchanges at eight devices: the same rows compiled, not run, for virtual CPU devices.

JAX fixes the number of its devices when it starts, so the benchmark calls itself in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxrec import sharding
from jaxrec.benchmarks.case import Prepared
from jaxrec.benchmarks.collectives import exchanged
from jaxrec.benchmarks.sweep import Job, jobs
from jaxrec.cli import progress
from jaxrec.errors import UserError
from jaxrec.training import TrainState, lay_out

DEVICES = 8
OPTION = "--collectives"  # of the script, for the process of its own


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
    if job.batch % DEVICES:
        return {"why": f"a batch of {job.batch} does not divide by {DEVICES}"}
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

    mesh, state = prepared.feed.mesh, jax.eval_shape(prepared.new_state)
    dealt = partial(sharding.like, mesh=mesh)
    return lay_out(state, prepared.model, replicated, dealt), replicated(prepared.constants)
