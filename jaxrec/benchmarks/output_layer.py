"""The full-catalogue softmax alone, beside the plain formula."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.benchmarks.sweep import REPETITIONS
from jaxrec.losses.softmax import Softmax, softmax_cross_entropy

ITEMS, WIDTH, BATCH = 43_097, 50, 512  # Diginetica's catalogue, NARM's width and step
CALLS = 5  # of the output layer in one compiled loop


def output_layer(options: Any) -> list[dict[str, Any]]:
    """The loss over the whole catalogue with its derivatives, alone: in blocks, and as automatic differentiation of the
    plain formula. Milliseconds a call within a compiled loop, as in training; and what is held beside the arguments."""
    rows, width = [], options.dim or WIDTH
    for n_items, batch in itertools.product(options.items or [ITEMS], options.batch or [BATCH]):
        keys = jax.random.split(jax.random.key(0), 3)
        queries, items = jax.random.normal(keys[0], (batch, width)), jax.random.normal(keys[1], (n_items, width)) / 10
        target = jax.random.randint(keys[2], (batch,), 0, n_items)

        def plain(q: Any, e: Any, target: Any = target) -> Any:
            scores = q @ e.T
            own = jnp.take_along_axis(scores, target[:, None], axis=1)[:, 0]
            return jnp.sum(jax.nn.logsumexp(scores, axis=1) - own)

        def blocks(how: Softmax, q: Any, e: Any, target: Any = target) -> Any:
            return softmax_cross_entropy(how, q, e, target, jnp.ones(len(q)))

        ways: dict[str, Callable[..., Any]] = {"plain formula": plain}
        ways |= {f"blocks, {memory} MiB": partial(blocks, Softmax(memory)) for memory in (16, 64, 256)}
        ways["blocks, 64 MiB, bfloat16"] = partial(blocks, Softmax(64, "bfloat16"))
        compiled = {name: _calls(way).lower(queries, items).compile() for name, way in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _, (name, call) in itertools.product(range((options.repetitions or REPETITIONS) + 1), compiled.items()):
            begin = time.perf_counter()
            jax.block_until_ready(call(queries, items))
            times[name].append(1000 * (time.perf_counter() - begin) / CALLS)
        for name, (_, *counted) in times.items():
            memory = compiled[name].memory_analysis()
            spread = {"ms": median(counted), "ms_min": min(counted), "ms_max": max(counted)}
            rows.append({"way": name, "batch": batch, "items": n_items, "dim": width,
                         "memory_mb": round(memory.temp_size_in_bytes / 1e6, 1) if memory else 0.0,
                         **{key: round(value, 2) for key, value in spread.items()}})  # fmt: skip
    return rows


def _calls(way: Callable[..., Any]) -> jax.stages.Wrapped:
    """``CALLS`` calls with derivatives, each depending on the one before so that none can be left out."""

    def one(at: Any, _: None) -> tuple[Any, Any]:
        value, slope = jax.value_and_grad(way, (0, 1))(*at)
        return jax.tree.map(lambda x, d: x - 1e-6 * d, at, slope), value

    return jax.jit(lambda q, e: jax.lax.scan(one, (q, e), None, length=CALLS))
