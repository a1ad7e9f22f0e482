"""How commands set JAX up."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import jax


def start() -> None:
    """Quieten Orbax, and turn the persistent compilation cache on, unless the user has pointed JAX at one of their own.

    ``JAXREC_CACHE`` names another directory than ``~/.cache/jaxrec``; empty turns it off.
    """
    for name in ("absl", "asyncio"):  # what Orbax and its tasks log they also raise, or it is of no use to users
        logging.getLogger(name).setLevel(logging.CRITICAL)
    place = os.environ.get("JAXREC_CACHE", str(Path.home() / ".cache" / "jaxrec"))
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not place:
        return
    jax.config.update("jax_compilation_cache_dir", place)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def machine() -> dict[str, Any]:
    """What figures were measured on: processor or accelerator, cores, versions."""
    import platform

    import flax
    import jaxlib
    import numpy
    import optax

    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else _cpu_name(),
        "platform": device.platform,
        "devices": jax.device_count(),
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": numpy.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "cpu"
