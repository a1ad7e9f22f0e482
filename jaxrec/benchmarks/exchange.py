"""Bytes that a step exchanges at eight devices: the rows compiled, not run, for virtual CPU devices, in a process of
its own, since JAX fixes the number of its devices when it starts."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxrec.benchmarks.sizes import prepare
from jaxrec.benchmarks.sweep import jobs
from jaxrec.cli.command import progress
from jaxrec.errors import UserError
from jaxrec.programs.text import Program

DEVICES = 8
OPTION = "--collectives"  # of the script, for the process of its own


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
        # Shapes and places: eight copies of a large table would not fit everywhere.
        constants = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
                                 prepared.constants)  # fmt: skip
        text = prepared.compiled(prepared.training.state_like(), constants).as_text() or ""
        return {"bytes": Program(text, prepared.feed.shape.steps).collectives()}
    except (UserError, ValueError) as error:
        return {"why": str(error)}
