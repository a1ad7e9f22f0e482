"""Regenerates, with NumPy alone, the weights and batches behind gru4rec_reference.json: every array of a case comes
from one ``RandomState``, drawn in the order of the code."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
RESET_RATE = 0.15


def parameter_shapes(case: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the initial weights by torch name, in the order in which they are drawn."""
    n_items, layers, mode = case["n_items"], list(case["layers"]), case["mode"]
    first, shapes = layers[0], dict[str, tuple[int, ...]]()
    if mode == "onehot":
        shapes |= {"GE.Wx0.weight": (n_items, 3 * first), "GE.Wrz0": (first, 2 * first), "GE.Wh0": (first, first),
                   "GE.Bh0": (3 * first,)}  # fmt: skip
        widths = layers
    elif mode == "separate":
        shapes["E.weight"], widths = (n_items, case["embedding"]), [case["embedding"], *layers]
    else:
        widths = [layers[-1], *layers]
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        shapes |= {f"G.{i}.weight_ih": (3 * n_out, n_in), f"G.{i}.weight_hh": (3 * n_out, n_out),
                   f"G.{i}.bias_ih": (3 * n_out,), f"G.{i}.bias_hh": (3 * n_out,)}  # fmt: skip
    return shapes | {"Wy.weight": (n_items, layers[-1]), "By.weight": (n_items, 1)}


def make_case(case: Mapping[str, Any]) -> dict[str, Any]:
    """The initial weights (float32, by torch name) and the batches of one case of the reference file."""
    rng = np.random.RandomState(case["seed"])
    n_items, steps, lanes, n_sample = case["n_items"], case["steps"], case["batch_size"], case["n_sample"]

    weights: dict[str, Array] = {}
    for name, shape in parameter_shapes(case).items():
        bound = 0.2 if name in ("By.weight", "GE.Bh0") or ".bias_" in name else 0.4
        weights[name] = rng.uniform(-bound, bound, size=shape).astype(np.float32)

    p0 = np.floor(1.0 + 200.0 * rng.uniform(size=n_items)).astype(np.int64)

    inputs, targets, samples = (
        np.floor(n_items * rng.uniform(size=(steps, width)) ** 2).astype(np.int64) for width in (lanes, lanes, n_sample)
    )
    resets = rng.uniform(size=(steps, lanes)) < RESET_RATE
    resets[0] = True  # every lane starts a session; the hidden states are zero then anyway

    # In every third step an item is the target of two lanes, the input of a third, and sampled twice.
    for array, place in ((targets, 5), (inputs, 3), (samples, 4), (samples, 9)):
        array[::3, place] = targets[::3, 2]

    active = np.ones((steps, lanes), dtype=bool)
    for first_step, remaining in case["tail"]:  # from first_step on, only these lanes are left
        active[first_step:] = False
        active[first_step:, remaining] = True
    return {"weights": weights, "p0": p0, "inputs": inputs, "targets": targets, "samples": samples, "resets": resets,
            "active": active}  # fmt: skip


def projections(name: str, shape: Sequence[int]) -> Array:
    """Two fixed vectors (stacked on axis 0) on which a tensor of this name and shape is projected."""
    rng = np.random.RandomState(zlib.crc32(name.encode("ascii")))
    vectors: Array = rng.uniform(-1.0, 1.0, size=(2, *shape))
    return vectors
