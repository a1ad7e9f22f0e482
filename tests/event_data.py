"""A small made-up marketplace, vectors of its names without a text model, and quick runs on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from helpers import call, write_config
from worlds import word_vectors, write_vectors

from jaxrec import config as configuration
from jaxrec.data.dataset import open_sessions
from jaxrec.data.text.encoding import Encoded
from jaxrec.run import create_run
from jaxrec.tasks.base import make_task

DIM = 16  # of the vectors
MODEL = "fake"  # their text model, and its identity
UNNAMED = 16  # a power of two
SMALL = {"events": 4000, "items": 400, "names": 120, "users": 60, "days": 8, "test-days": 2, "lifetime": 4}
MODEL_SECTION = {
    "name": "merrec", "layers": [16], "embedding_dim": 8, "text_dim": 8, "name_dim": 8, "event_dim": 4, "field_dim": 4,
    "window": 8, "item_fields": ["c0", "price"],
}  # fmt: skip


def make_event_data(path: Path, live: bool = True, vectors: bool = True, **options: object) -> Path:
    """A dataset directory: some 400 listings, of which training holds four fifths, with some 100 names.

    Args:
        live: of the source merrec-synthetic, which says when listings are live. Otherwise of the source merrec, from
            the same files, but one in ``UNNAMED`` listings has no name, and nothing says when they are live.
        vectors: with those of ``write_vectors``.
        options: of the source merrec-synthetic, with _ for -.
    """
    chosen = SMALL | {name.replace("_", "-"): value for name, value in options.items()}
    words = [str(word) for name, value in chosen.items() for word in (f"--{name}", value)]
    raw = path.with_name(f"{path.name}-raw")
    made, kept = (path, []) if live else (path.with_name(f"{path.name}-made"), ["--raw-out", raw])
    assert call("prepare", "merrec-synthetic", "--out", made, *words, *kept) == 0
    if not live:
        for file in raw.glob("[!_]*.parquet"):
            table = pq.read_table(file)
            unnamed = pc.equal(pc.bit_wise_and(table["item_id"], UNNAMED - 1), 0)
            names = pc.if_else(unnamed, None, table["name"].cast(pa.string()))
            pq.write_table(table.set_column(table.schema.get_field_index("name"), "name", names), file)
        assert call("prepare", "merrec", "--raw", raw, "--out", path, "--test-days", chosen["test-days"]) == 0
    return write_vectors(path) if vectors else path


def fake_find_model(model: str, update: Callable[..., None]) -> tuple[Path, str]:
    """In place of ``encoding.find_model``: every model is there, and its identity is its name."""
    return Path(model), model


def fake_encoded(texts: Sequence[str], model: str, *_: Any, **__: Any) -> Encoded:
    """In place of ``encoding.encoded``, with the vectors of ``word_vectors``."""
    return Encoded(word_vectors(texts), np.arange(len(texts)), len(set(texts)), len(texts), 1.0, model)


def write_event_config(file: Path, data: Path, **sections: dict[str, Any]) -> Path:
    """A configuration of merrec for quick training; ``sections`` win over it, None takes the default."""
    values: dict[str, dict[str, Any]] = {
        "data": {"validation_fraction": 0.0},
        "model": MODEL_SECTION,
        "training": {"epochs": 1, "batch_size": 64},
    }
    for section, fields in sections.items():
        values[section] = values.get(section, {}) | fields
    return write_config(file, data, **values)


def make_run(data: Path, run: Path, **sections: dict[str, Any]) -> Path:
    """A run directory with such a configuration, in which nothing was trained."""
    config = configuration.load(write_event_config(run.with_name(f"{run.name}.yaml"), data, **sections))
    dataset = open_sessions(data)
    task = make_task(config, dataset)
    return create_run(run, config, dataset, False, task.kept, task.copied).path


def random_weights(model: Any, seed: int = 1) -> dict[str, Any]:
    """Parameters and tables of which none is 0, as some are at first."""
    random = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    tables = {
        name: jnp.asarray(random.normal(size=(spec.rows, spec.width)), jnp.float32)
        for name, spec in model.tables.items()
    }
    return {"params": params, "tables": tables}


def train_small(data: Path, run: Path, **sections: dict[str, Any]) -> Path:
    """Train a run with such a configuration; returns its directory."""
    config = write_event_config(run.with_name(f"{run.name}.yaml"), data, **sections)
    assert call("train", "--config", config, "--run", run) == 0
    return run
