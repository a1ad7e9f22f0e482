"""What needs parts of JAX that it does not promise to keep: the devices of a target that is not here. Tried with the
versions in ``TESTED``; others are refused with one line before anything is compiled."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from jaxrec.errors import UserError, listed
from jaxrec.programs.targets import Target

TESTED = ("0.10.2",)  # of jax; libtpu 0.0.42.1, jax-cuda13-plugin 0.10.2


def check_version(target: Target) -> None:
    """Refuse a version of JAX whose private parts are not known; a CPU's program needs none of them."""
    if target.platform != "cpu" and (version := metadata.version("jax")) not in TESTED:
        raise UserError(f"--target {target.name}: compiling for devices that are not here uses private parts of JAX, "
                        f"tried with {listed(TESTED, 'or')}, and jax {version} is installed; pip install "
                        f"jax=={TESTED[-1]} jaxlib=={TESTED[-1]}, or use --target cpu")  # fmt: skip


def devices(target: Target) -> list[Any]:
    """The target's devices, to compile for; in a process with ``Target.environment``."""
    import jax
    from jax.experimental import topologies

    if target.platform == "cpu":
        return list(jax.devices("cpu"))[: target.devices]
    if target.platform == "tpu":  # of one chip there is no topology: it is a host's first
        sides = {"1x1": "2x2", "1x1x1": "2x2x1"}.get(target.topology, target.topology)
        name = f"{target.name.partition(':')[0].removeprefix('tpu-')}:{sides}"
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)[: target.devices]
    from jax._src import xla_bridge

    # JAX renames "cuda" to "gpu", a name under which no plugin of a topology stands (jax issues 23971, 28376).
    usual = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda platform: "cuda" if platform in ("cuda", "gpu") else usual(platform)
    try:
        found = topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=target.chip.config,
            topology=f"1x{target.hosts}x{-(-target.devices // target.hosts)}",
        )  # fmt: skip
    finally:
        xla_bridge.canonicalize_platform = usual
    return list(found.devices)[: target.devices]


def compiled(lowered: Any, target: Target) -> tuple[Any, str]:
    """The program, and what is to be said of how it was compiled; empty mostly."""
    try:
        return lowered.compile(), ""
    except Exception as error:
        # Without a GPU nothing is tuned, and XLA's untuned tiles do not suit every product that it hands to Triton.
        if target.platform != "gpu" or "output tile sizes" not in str(error):
            raise
    return lowered.compile({"xla_gpu_enable_triton_gemm": False}), (
        "compiled with xla_gpu_enable_triton_gemm off: without a GPU nothing is tuned, and XLA finds no tiles for one "
        "of the products; its library's kernels stand in")  # fmt: skip


def out_of_memory(error: Exception) -> bool:
    """Whether a compiler refused a program because a device could not hold it, as the TPU's does."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error)
