"""How commands set JAX up, and what machine it runs on."""

from __future__ import annotations

import logging
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


def start() -> None:
    """Quieten Orbax, and keep compiled programs in ``JAXREC_CACHE`` (``~/.cache/jaxrec``; empty: nowhere), unless the
    user has pointed JAX at a cache of their own."""
    for name in ("absl", "asyncio"):  # what Orbax and its tasks log they also raise, or it is of no use to users
        logging.getLogger(name).setLevel(logging.CRITICAL)
    place = os.environ.get("JAXREC_CACHE", str(Path.home() / ".cache" / "jaxrec"))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and place:
        jax.config.update("jax_compilation_cache_dir", place)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def machine() -> dict[str, Any]:
    """What figures were measured on: processor or accelerator, cores, versions."""
    device, info = jax.devices()[0], Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "cpu")
    return {
        "device": device.device_kind if device.platform != "cpu" else name, "platform": device.platform,
        "devices": jax.device_count(), "cpu_cores": os.cpu_count(), "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("jax", "jaxlib", "flax", "optax", "numpy")},
    }  # fmt: skip
