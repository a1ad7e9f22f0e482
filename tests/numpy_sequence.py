"""NARM and SASRec in NumPy, a session at a time, written from the papers' equations (see ``jaxrec.models.base``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy_gru import gru, sigmoid


def double(weights: Any) -> tuple[dict[str, Any], np.ndarray]:
    """The parameters and the item table in float64."""
    params = {
        name: {part: np.asarray(leaf, np.float64) for part, leaf in value.items()}
        if isinstance(value, dict)
        else np.asarray(value, np.float64)
        for name, value in weights["params"].items()
    }
    return params, np.asarray(weights["tables"]["item"], np.float64)


def softmax(x: np.ndarray) -> np.ndarray:
    mass = np.exp(x - x.max(axis=-1, keepdims=True))
    return mass / mass.sum(axis=-1, keepdims=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def narm_query(p: dict[str, Any], vectors: np.ndarray, normalised: bool = False) -> np.ndarray:
    """float64[D] after a session of float64[n, D] (Li et al. 2017, sections 3.2 to 3.5)."""
    cell = {part: p[f"gru_{part}"] for part in ("input_kernel", "hidden_kernel", "input_bias", "hidden_bias")}
    states = [np.zeros(len(cell["hidden_kernel"]))]
    for x in vectors:
        states.append(gru(cell, x, states[-1]))
    h = np.array(states[1:])
    alpha = sigmoid(h[-1] @ p["attention_last"] + h @ p["attention_each"]) @ p["attention_value"][:, 0]
    local = (softmax(alpha) if normalised else alpha) @ h
    return np.concatenate([h[-1], local]) @ p["decoder"]


def sasrec_query(p: dict[str, Any], vectors: np.ndarray, blocks: int, heads: int) -> np.ndarray:
    """float64[D] after a session of float64[n, D] (Kang & McAuley 2018, section III, as in the authors' code)."""
    n, width = vectors.shape
    depth = width // heads

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        deviation = x - x.mean(axis=1, keepdims=True)
        return (
            deviation / np.sqrt((deviation**2).mean(axis=1, keepdims=True) + 1e-6) * p[name]["scale"] + p[name]["bias"]
        )

    x = vectors * np.sqrt(width) + p["positions"][:n]
    for block in (f"block_{i}" for i in range(blocks)):
        q = norm(f"{block}_norm_1", x) @ p[f"{block}_query"]
        k, v = x @ p[f"{block}_key"], x @ p[f"{block}_value"]
        mixed = []
        for part in (slice(head * depth, (head + 1) * depth) for head in range(heads)):
            score = q[:, part] @ k[:, part].T / np.sqrt(depth)
            score[np.triu_indices(n, 1)] = -np.inf  # what comes later
            mixed.append(softmax(score) @ v[:, part])
        x = x + np.concatenate(mixed, axis=1)
        hidden = np.maximum(norm(f"{block}_norm_2", x) @ p[f"{block}_kernel_1"] + p[f"{block}_bias_1"], 0.0)
        x = x + hidden @ p[f"{block}_kernel_2"] + p[f"{block}_bias_2"]
    return norm("norm", x)[-1]
