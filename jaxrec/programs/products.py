"""Additions and multiplications of a program's matrix products, counted from the shapes of its jaxpr."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import jax


def products(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """A program's matrix products, and how often its loops come to each, without what is under a condition and rare."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation, times
        elif equation.primitive.name != "cond":
            turns = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
            if equation.primitive.name == "shard_map":  # shapes within are those of one device
                turns *= equation.params["mesh"].size
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda one: hasattr(one, "eqns")):
                if hasattr(inner, "eqns"):
                    yield from products(getattr(inner, "jaxpr", inner), turns)


def flop(traced: Any, steps: int) -> int:
    """Additions and multiplications of a step's matrix products, by the shapes of a block's traced program."""
    total = sum(
        times * 2 * prod(one.outvars[0].aval.shape) * prod(one.invars[0].aval.shape[axis] for axis in over)
        for one, times in products(traced.jaxpr.jaxpr)
        for over in [one.params["dimension_numbers"][0][0]]
    )
    return total // steps
