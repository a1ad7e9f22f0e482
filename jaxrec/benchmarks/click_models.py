"""AutoInt+ at the size that the literature benchmarks it at, on generated rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec import config as configuration
from jaxrec.benchmarks.case import Prepared, epoch_blocks, sections
from jaxrec.config import Config
from jaxrec.data.rows import Field, Rows, Schema
from jaxrec.models import make_click_model
from jaxrec.training import training_plan

BATCH, DIM, FIELDS = 2048, 32, 10
USERS, FILMS, OTHERS = 6_040, 3_706, 20  # values of the first two fields, MovieLens 1M's, and of the others


def prepare(options: Any, batch: int) -> Prepared:
    """AutoInt+ with three layers of two heads and a deep network of 400-400, without dropout."""
    dim, fields = options.dim or DIM, options.fields
    config = configuration.parse({
        **sections(options, batch, metric="auc"),
        "model": {"name": "autoint", "embedding_dim": dim, "blocks": 3, "heads": 2, "attention_dim": dim,
                  "deep": [400, 400]},
        "loss": {"name": "binary"},
        "optimizer": {"name": "adam", "learning_rate": 0.001},
    })  # fmt: skip
    sizes = [USERS + 1, FILMS + 1, *[OTHERS + 1] * fields][:fields]
    schema = Schema(
        tuple(Field(f"field_{i}", "categorical", "context", size) for i, size in enumerate(sizes)), None, None, 1, 0, 1
    )
    random, n = np.random.default_rng(0), epoch_blocks(options, 2) * batch * options.steps
    columns = np.stack([random.integers(1, size, n, np.int32) for size in sizes], axis=1)
    labels = (random.random(n) < 0.5).astype(np.float32)
    none = np.zeros((n, 0), np.float32)
    rows = Rows(columns, none, labels, labels, np.zeros(n, np.int64), np.zeros(n, np.int32))
    model = make_click_model(config, schema)
    feed = model.feed(rows, training_plan(config))
    flop, size = work(config, batch, sum(sizes), fields)
    shown = {"units": config.model.attention_dim, "dim": dim, "n_sample": 0, "precision": options.precision}
    data = {"columns": columns, "labels": labels, "sizes": np.asarray(sizes)}
    return Prepared(config, model, feed, model.constants(np.zeros(0)), sum(sizes), batch, flop, size, shown, data)


def work(config: Config, rows: int, values: int, fields: int) -> tuple[int, int]:
    """FLOP and bytes of one step: three times the products forward; the table with its derivative and two moments read
    and written once, and what the layers hand on written and read once forward and twice backward."""
    model = config.model
    of_row, held, width = 0, fields * model.embedding_dim, model.embedding_dim
    for _ in range(model.blocks):
        of_row += 4 * fields * width * model.attention_dim + 2 * fields * fields * model.attention_dim
        held += 5 * fields * model.attention_dim + model.heads * fields * fields
        width = model.attention_dim
    for below, units in zip((fields * model.embedding_dim, *model.deep), model.deep, strict=False):
        of_row += below * units
        held += units
    return 3 * 2 * rows * of_row, 4 * (2 * 4 * values * model.embedding_dim + 4 * rows * held)
