"""The peak of memory of a real run of a block on this machine, beside the planned one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import config as configuration
from jaxrec.errors import UserError
from jaxrec.ops import parallel
from jaxrec.programs import workload
from jaxrec.programs.answers import workload_of
from jaxrec.programs.plan import Place
from jaxrec.programs.targets import Target
from jaxrec.training.block import Training

BLOCKS = 3  # that are run


def measure(target: Target, file: str, overrides: Sequence[str], sizes: workload.Sizes) -> Any:
    """``measured_bytes``: the peak from before the state is made to after some blocks, of one device; of virtual
    devices the machine's, shared among them. What constants hold does not matter to it: they are zeros. Beside it what
    the program of the real arrays takes, which the plan of shapes has to agree with."""
    config, local = configuration.load(file, overrides), jax.local_devices()
    if parallel.platform_of(local[0]) != target.platform or len(local) < target.devices:
        raise UserError(f"--measure: {target.name} is not here, but {local[0].device_kind}; leave --measure out, or "
                        "name the target cpu alone")  # fmt: skip
    place = Place.of(target, local[: target.devices], config)
    work = workload_of(config, place, sizes)
    training = Training(config, work.model, work.feed)
    block = next(iter(work.feed.epoch(0)))
    like = training.state_like(), training.constants_like(work.constants), place.placed(work.feed.like())
    compiled = training.block.lower(*like).compile()
    before = _resident(local, reset=True)
    constants = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), work.constants)
    constants, state = training.constants(constants), training.begin()
    for _ in range(BLOCKS):
        state, stats = compiled(state, constants, block)
        jax.block_until_ready((state, stats))
    peak = _resident(local) - before
    devices = 1 if work.feed.mesh is None else work.feed.mesh.size
    memory: Any = training.block.lower(state, constants, block).compile().memory_analysis()
    return {
        "measured_bytes": peak // devices if target.platform == "cpu" else peak,
        "measured_state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "run_argument_bytes": memory.argument_size_in_bytes, "run_temp_bytes": memory.temp_size_in_bytes,
    }  # fmt: skip


def _resident(devices: list[Any], reset: bool = False) -> int:
    """The most bytes that were held since the last ``reset``, at which it is what is held now."""
    if stats := devices[0].memory_stats():
        return int(stats["bytes_in_use" if reset else "peak_bytes_in_use"])
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    lines = Path(f"/proc/{os.getpid()}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
