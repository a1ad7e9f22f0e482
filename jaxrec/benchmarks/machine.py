"""What the machine could do: measured just before the models, so that rates can be read as shares."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


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


def device_peak_mb() -> float | None:
    """The most memory that an accelerator has had in use since the process began (MB); None where it does not say."""
    found = jax.devices()[0].memory_stats()
    return round(found["peak_bytes_in_use"] / 1e6, 1) if found and "peak_bytes_in_use" in found else None
