"""The vectors of all items, worked out once at the end of training and kept in the run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.retrieval import Catalogue
from jaxrec.models.base import TowerModel
from jaxrec.run import Run
from jaxrec.tasks.base import load_parameters
from jaxrec.training.checkpoint import Checkpoints

FILE = "item_vectors.npz"


def save_item_vectors(run: Run, model: TowerModel, catalogue: Catalogue) -> None:
    """Write ``item_vectors.npz`` into the run: ``vectors`` float32[V, D], and which checkpoint gave them."""
    weights, which = load_parameters(run, model)
    part = run.path / (FILE + ".part")
    with open(part, "wb") as stream:
        np.savez(stream, vectors=item_vectors(model, weights, catalogue), checkpoint=_name(run, which))
    part.replace(run.path / FILE)


def load_item_vectors(run: Run, which: str, items: int) -> np.ndarray | None:
    """float32[V, D] as kept; None where they are missing, damaged or of another checkpoint."""
    try:
        with open(run.path / FILE, "rb") as stream, np.load(stream, allow_pickle=False) as kept:
            fits = str(kept["checkpoint"]) == _name(run, which) and len(kept["vectors"]) == items
            return np.array(kept["vectors"]) if fits else None
    except Exception:  # whatever NumPy, zipfile and zlib make of damaged bytes: the archive has checksums of its own
        return None


def item_vectors(model: TowerModel, weights: dict[str, Any], catalogue: Catalogue) -> np.ndarray:
    """float32[V, D]: the vector of every item."""
    encode = jax.jit(model.encode, static_argnums=0)
    return np.asarray(encode("item", weights, jnp.asarray(catalogue.columns), jnp.asarray(catalogue.numbers)))


def _name(run: Run, which: str) -> str:
    return f"{which}/{Checkpoints(run.path).last(which)}"
