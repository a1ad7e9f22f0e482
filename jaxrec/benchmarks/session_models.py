"""Models of sessions at the sizes that the literature benchmarks them at."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxrec import config as configuration
from jaxrec.benchmarks.case import Prepared, epoch_blocks, positions, sections
from jaxrec.config import Config
from jaxrec.data.dataset import Sessions
from jaxrec.models import make_model
from jaxrec.negatives import popularity
from jaxrec.training import training_plan

MEAN_LENGTH = 5  # clicks a session, about that of Diginetica


def synthetic_sessions(n_items: int, events: int, seed: int = 0) -> Sessions:
    """Sessions of geometric length whose items are independent with Zipf popularity (exponent 0.8)."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / (MEAN_LENGTH - 1), max(1, events // MEAN_LENGTH)) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    edges = np.cumsum(np.arange(1, n_items + 1) ** -0.8)
    items = np.searchsorted(edges / edges[-1], rng.random(offsets[-1])).astype(np.int32)
    return Sessions(np.minimum(items, n_items - 1), np.zeros(offsets[-1], np.int64), offsets)


class Size(NamedTuple):
    """What the literature benchmarks a model at, where the command line does not say otherwise."""

    batch: tuple[int, ...]
    loss: tuple[str, ...]
    items: int
    dim: int


SIZES = {
    "gru4rec": Size((32, 128, 512), ("cross_entropy", "bpr_max"), 40_000, 100),
    "narm": Size((512,), ("softmax",), 43_097, 50),
    "sasrec": Size((512,), ("softmax",), 43_097, 50),
}
ADAM = {"name": "adam", "learning_rate": 0.001}


def prepare(options: Any, model_name: str, n_items: int, loss: str, batch: int) -> Prepared:
    """A model with a feed of synthetic sessions."""
    config = make_config(options, model_name, batch, loss)
    events = epoch_blocks(options, 3) * batch * options.steps * MEAN_LENGTH // 4
    sessions = synthetic_sessions(n_items, max(2 * n_items, events))
    model = make_model(config, n_items)
    feed = model.feed(sessions, training_plan(config))
    targets = feed.pairs / feed.shape.used
    flop, size = work(config, targets, positions(feed), n_items)
    gru4rec = model_name == "gru4rec"
    shown = {
        "units": 0 if model_name == "sasrec" else config.model.layers[-1],
        "dim": config.model.layers[-1] if gru4rec else config.model.embedding_dim,
        "n_sample": 0 if loss == "softmax" else config.loss.n_sample,
        "precision": options.precision,
    }
    constants = model.constants(popularity(sessions.items, n_items))
    data = {"items": sessions.items, "offsets": sessions.offsets}
    targets = batch if gru4rec else targets
    return Prepared(config, model, feed, constants, n_items, targets, flop, size, shown, data)


def make_config(options: Any, model: str, batch: int, loss: str) -> Config:
    """The models as published: GRU4Rec with one layer, constrained embedding and Adagrad; NARM with as many units as
    ``--units`` says (100) over vectors of 50, SASRec with two blocks of one head, both with dropout and Adam."""
    dim = options.dim or SIZES[model].dim
    softmax = {"name": loss, "precision": options.precision}
    given: dict[str, dict[str, Any]] = {
        **sections(options, batch),
        "model": {"name": model, "embedding_dim": dim},
        "loss": softmax if loss == "softmax" else {"name": loss, "n_sample": options.n_sample},
    }
    if model != "sasrec":
        given["model"]["layers"] = [options.units]
    if model != "gru4rec":
        given["model"] |= {"dropout_embedding": 0.25, "dropout_hidden": 0.5}
        given["optimizer"] = ADAM
    return configuration.parse(given)


def work(config: Config, targets: float, positions: int, n_items: int) -> tuple[int, int]:
    """FLOP and bytes of one step.

    FLOP: scores and their two derivatives, and three times the encoder's products (GRU4Rec: five of six, since the
    derivative of the carried state is cut). Bytes: the rows asked for, duplicates and all, or a dense table whole, with
    their optimizer's state and, if dense, the derivative; each read and written once.

    Args:
        targets: queries of a step.
        positions: that the encoder reads.
    """
    model, batch = config.model, config.training.batch_size
    units, moments = model.layers[-1], 2 if config.optimizer.name == "adam" else 1
    if model.name == "gru4rec":
        width, rows = units + 1, 2 * batch + config.loss.n_sample
        encoder = 5 * 2 * batch * units * 3 * units
    else:
        width, rows = model.embedding_dim, 2 * batch + config.loss.n_sample
        if model.name == "narm":
            of_positions = (width + units) * 3 * units + units * units  # GRU, keys
            # Last state, decoder; energies and mixing with half a window on average.
            of_targets = units * units + 2 * units * width + units * model.window
        else:
            of_positions = model.blocks * (5 * width * width + width * model.window)
            of_targets = 0
        encoder = round(3 * 2 * (positions * of_positions + targets * of_targets))
    dense = config.loss.name == "softmax"
    columns = n_items if dense else batch + config.loss.n_sample
    flop = 3 * 2 * targets * columns * width + encoder
    return int(flop), 4 * (n_items * width * (2 + moments) if dense else rows * width * (1 + moments)) * 2
