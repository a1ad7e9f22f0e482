"""GRU4Rec's scores in NumPy, a session at a time, written from the equations (Cho et al. 2014; Hidasi et al. 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def gru(p: dict[str, np.ndarray], x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The reset gate acts after the recurrent product."""
    x_r, x_z, x_n = np.split(x @ p["input_kernel"] + p["input_bias"], 3)
    h_r, h_z, h_n = np.split(h @ p["hidden_kernel"] + p["hidden_bias"], 3)
    z = sigmoid(x_z + h_z)
    return (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h


def onehot_gru(p: dict[str, np.ndarray], row: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The reset gate acts before the recurrent product; the new state enters with the update gate."""
    x_n, x_r, x_z = np.split(row + p["bias"], 3)
    h_r, h_z = np.split(h @ p["gate_kernel"], 2)
    z = sigmoid(x_z + h_z)
    return (1 - z) * h + z * np.tanh(x_n + (sigmoid(x_r + h_r) * h) @ p["candidate_kernel"])


def all_scores(parameters: dict[str, Any], session: Any) -> np.ndarray:
    """float64[n, V]: the scores of all items after each of the session's n item indices."""
    tables, layers = {name: np.asarray(one, np.float64) for name, one in parameters["tables"].items()}, dict[str, Any]()
    for name, value in parameters["params"].items():
        _, number, part = name.split("_", 2)
        layers.setdefault(number, {})[part] = np.float64(value)
    stack = [layers[number] for number in sorted(layers)]
    vectors, biases = tables["item"][:, :-1], tables["item"][:, -1]
    source = tables.get("input", vectors)
    widths = [(p["candidate_kernel"] if "candidate_kernel" in p else p["hidden_kernel"]).shape[0] for p in stack]
    hidden = [np.zeros(width) for width in widths]
    scores = []
    for item in session:
        x = source[item]
        for i, p in enumerate(stack):
            x = hidden[i] = onehot_gru(p, x, hidden[i]) if "candidate_kernel" in p else gru(p, x, hidden[i])
        scores.append(vectors @ x + biases)
    return np.array(scores)
