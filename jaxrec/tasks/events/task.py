"""Next items of sequences of events, by what items are called, as the training loop sees them."""

from __future__ import annotations

import numpy as np

from jaxrec.config import Config
from jaxrec.config.finding import find_model
from jaxrec.data.catalogue import open_catalogue
from jaxrec.data.dataset import Dataset
from jaxrec.errors import UserError
from jaxrec.models.merrec import MERRec
from jaxrec.run import Run
from jaxrec.tasks.base import Task
from jaxrec.tasks.events.judge import event_judge, sample
from jaxrec.tasks.sessions.task import session_splits
from jaxrec.training.block import training_plan

EXAMPLES = 100  # sequences of the newest split that a run keeps, to show what is recommended


def make(config: Config, dataset: Dataset) -> Task:
    """Next items of sequences of events, by what items are called."""
    catalogue = open_catalogue(dataset.path, dataset.manifest, config.model.item_fields, config.data.embeddings)
    if config.model.head != "items" and not dataset.manifest["counts"].get("names", 1):
        raise UserError(f"model.head: {config.model.head} ranks items by their names, and {dataset.path} has none; set "
                        "it to items, or prepare the data again with --name")  # fmt: skip
    training, validation = session_splits(config, dataset)
    model: MERRec = find_model(config.model.name).Model(config, catalogue, len(dataset.manifest["event_types"]))
    model.check()
    feed = model.feed(training, training_plan(config, config.data.order))
    counts = np.bincount(training.items, minlength=dataset.n_items)
    judge = None
    if len(validation):
        judge = event_judge(model, sample(validation, config.evaluation.sessions), config.evaluation, counts > 0)
    return Task(
        model,
        feed,
        model.constants(counts),
        judge,
        f"{feed.pairs:,} targets, {dataset.n_items:,} items, {np.count_nonzero(counts):,} of them in training",
        f"{judge.targets:,} validation targets" if judge else "no validation",
        {"item_counts": counts, **_examples(dataset)},
        copied=catalogue.vector_files,
    )


def _examples(dataset: Dataset) -> dict[str, np.ndarray]:
    """Sequences of the test split, or where there is none of the training split, drawn at random."""
    sessions = dataset.split("test")
    if not len(sessions):
        sessions = dataset.split("train")
    picked = sample(sessions, EXAMPLES)
    assert picked.events is not None
    return {"example_items": np.asarray(picked.items), "example_events": np.asarray(picked.events),
            "example_offsets": np.asarray(picked.offsets), "example_times": np.asarray(picked.times)}  # fmt: skip


def build(run: Run) -> MERRec:
    """A run's model, with the run's catalogue."""
    catalogue = open_catalogue(run.path / "dataset", run.manifest, run.config.model.item_fields)
    model: MERRec = find_model(run.config.model.name).Model(run.config, catalogue, len(run.manifest["event_types"]))
    return model
