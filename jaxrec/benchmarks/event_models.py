"""MERRec of the published size (names of 384, event vectors of 32, GRU 128 x 2) on generated events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from jaxrec import config as configuration
from jaxrec.benchmarks.case import Prepared, epoch_blocks, positions, sections
from jaxrec.benchmarks.session_models import synthetic_sessions
from jaxrec.config import Config
from jaxrec.data.catalogue import Catalogue
from jaxrec.models.merrec import MERRec
from jaxrec.negatives import popularity
from jaxrec.training import training_plan

BATCH, ITEMS, LOSS, HEADS = 512, (10_000, 100_000, 1_000_000), "cross_entropy", ("both",)
DIM, EVENT_TYPES, MOST_NAMES = 384, 6, 100_000


def prepare(options: Any, n_items: int, loss: str, batch: int, head: str) -> Prepared:
    """The model with a feed of sequences whose items have Zipf popularity (exponent 0.8)."""
    config = configuration.parse({
        **sections(options, batch),
        "model": {"name": "merrec", "head": head},
        "loss": {"name": loss, "precision": options.precision} if loss == "softmax" else
                {"name": loss, "n_sample": options.n_sample},
    })  # fmt: skip
    random = np.random.default_rng(0)
    events = epoch_blocks(options, 4) * batch * options.steps
    sessions = synthetic_sessions(n_items, max(2 * n_items, events))
    sessions = replace(sessions, events=random.integers(0, EVENT_TYPES, len(sessions.items)).astype(np.uint8))
    names = min(n_items, MOST_NAMES)
    vectors = (random.standard_normal((names, DIM), np.float32) * DIM**-0.5).astype(np.float16)
    name_of = random.integers(0, names, n_items).astype(np.int32)
    model = MERRec(config, Catalogue(vectors, {}, name_of, np.zeros((n_items, 0), np.int32), (), ()), EVENT_TYPES)
    feed = model.feed(sessions, training_plan(config))
    targets = feed.pairs / feed.shape.used
    flop, size = work(config, targets, positions(feed), n_items, names)
    sampled = 0 if loss == "softmax" else config.loss.n_sample
    shown = {"units": config.model.layers[-1], "dim": config.model.embedding_dim, "n_sample": sampled,
             "precision": options.precision, "head": head}  # fmt: skip
    constants = model.constants(popularity(sessions.items, n_items))
    return Prepared(config, model, feed, constants, n_items, targets, flop, size, shown)


def work(config: Config, targets: float, positions: int, n_items: int, names: int) -> tuple[int, int]:
    """FLOP and bytes of one step.

    FLOP: three times the products of the encoder, of the projected names that are matched, and of the scores. Bytes:
    the names that are read, in bfloat16, and the rows of the item table, read and written once with their optimizer's
    state, or all of them under a full softmax.
    """
    model, sampled = config.model, config.loss.name != "softmax"
    columns = config.training.batch_size + config.loss.n_sample if sampled else n_items
    width, of_position = model.name_dim + model.event_dim, DIM * model.name_dim
    for units in model.layers:
        of_position += (width + units) * 3 * units
        width = units
    item, text = (model.embedding_dim + 1) * (model.head != "text"), model.text_dim * (model.head != "items")
    projected = (columns if sampled else names) * DIM * text
    flop = 3 * 2 * (positions * of_position + targets * width * (item + text) + projected
                    + targets * columns * (item + text))  # fmt: skip
    read = positions + (columns if sampled else names) * (text > 0)
    return int(flop), int(2 * DIM * read + 4 * 2 * columns * (item + (item > 0)))
