"""MERRec's losses are the plain ones in NumPy; padding is nothing; rows are updated alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from numpy_models import COUNTS, EVENTS, N_ITEMS, item_scores, last_query, make_catalogue, sampled_loss, softmax_loss
from steps import Sections, Taken, assert_slopes, config_of, random_weights, seen_by, take_step

from jaxrec.config import Config
from jaxrec.data.dataset import Sessions
from jaxrec.data.items import Catalogue, Spans
from jaxrec.feeds.base import Plan
from jaxrec.feeds.packed import PackedBlock
from jaxrec.losses.sampled import Step
from jaxrec.models.merrec import MERRec

TARGETS = 16
MARKET = Spans(np.arange(N_ITEMS, dtype=np.int32) % 5 * 6, np.arange(N_ITEMS, dtype=np.int32) % 7 * 9 + 20, 5000)

CASES: dict[str, Sections] = {
    "items": {"model": {"head": "items"}, "loss": {"n_sample": 0, "logq": 0.7}},
    "text": {"model": {"head": "text", "temperature": 3.0, "item_fields": []},
             "loss": {"n_sample": 0, "logq": 1.0}},
    "both": {"model": {"temperature": 2.0},
             "loss": {"n_sample": 8, "sample_alpha": 0.3, "category_weight": 0.5, "logq": 0.8}},
    "new": {"loss": {"n_sample": 3, "logq": 0.0}, "data": {"unknown_rate": 0.5}},
    "softmax": {"model": {"layers": [6, 5]},
                "loss": {"name": "softmax", "label_smoothing": 0.2, "category_weight": 1.0}},
}  # fmt: skip
LIVE = "both"  # the case whose listings come and go


def make_sessions() -> Sessions:
    """Of items that training holds; some are longer than the window. An event every second, so that times tell them."""
    random = np.random.default_rng(1)
    offsets = np.cumsum([0, *random.integers(2, 10, 12)]).astype(np.int64)
    n = int(offsets[-1])
    items = random.choice(np.flatnonzero(COUNTS), n, p=COUNTS[COUNTS > 0] / COUNTS.sum()).astype(np.int32)
    times = MARKET.origin + 1000 * np.arange(n)
    return Sessions(items, times, offsets, random.integers(0, EVENTS, n).astype(np.uint8))


class Case(NamedTuple):
    config: Config
    model: MERRec
    catalogue: Catalogue
    block: PackedBlock

    def take(self, weights: Any, number: int, key: int = 1) -> Taken:
        return take_step(self.model, self.model.constants(COUNTS), self.block, weights, number, key=key)


@cache
def case_of(name: str) -> Case:
    """With all steps of the training feed, leaves [S, ...] of NumPy."""
    model = {"name": "merrec", "layers": [7], "embedding_dim": 4, "text_dim": 5, "name_dim": 4, "event_dim": 3,
             "field_dim": 2, "window": 5, "item_fields": ["c0", "price"]}  # fmt: skip
    config = config_of({"model": model, "training": {"batch_size": TARGETS}}, CASES[name])
    catalogue = replace(make_catalogue(bool(config.model.item_fields)), spans=MARKET if name == LIVE else None)
    made = MERRec(config, catalogue, EVENTS)
    feed = made.feed(make_sessions(), Plan(TARGETS, 1000, "random", 3, 0, training=True))
    return Case(config, made, catalogue, jax.tree.map(np.asarray, next(iter(feed.epoch(0)))))


def plain_loss(case: Case, weights: dict[str, Any], step: Step, new: np.ndarray | None = None) -> float:
    """The sum of a step's losses, a query at a time; bool[V] ``new`` tells the items that are ranked as if new."""
    config, catalogue, block = case.config, case.catalogue, step.block
    loss, temperature, everything = config.loss, config.model.temperature, np.arange(N_ITEMS)
    new = np.zeros(N_ITEMS, bool) if new is None else new
    weight = np.asarray(block.weight, np.float64)
    if loss.category_weight:
        events = np.bincount(catalogue.codes[:, 0], COUNTS)[catalogue.codes[:, 0]]
        by_item = events**-loss.category_weight
        weight = weight * (by_item / (by_item @ COUNTS / COUNTS.sum()))[block.target]
    log_counts = np.log(np.maximum(COUNTS, 1))
    log_q = np.zeros((2, N_ITEMS))
    if loss.name == "cross_entropy":
        log_q = loss.logq * np.stack([log_counts, loss.sample_alpha * log_counts])
    total, seen = 0.0, seen_by(block.start, block.slot)
    for place in np.flatnonzero(block.weight):
        query = last_query(weights, catalogue, block.input[seen[place]], block.event[seen[place]], temperature)
        scores = item_scores(query, weights, catalogue, everything, new, temperature)
        own, live = int(block.target[place]), np.ones(N_ITEMS, bool)
        if catalogue.spans is not None:
            live = (MARKET.listed <= block.asked[place]) & (block.asked[place] < MARKET.sold)
        if loss.name == "softmax":
            one = softmax_loss(np.where(COUNTS > 0, scores, -np.inf), own, loss.label_smoothing)
        else:
            assert step.drawn is not None
            targets, drawn = block.target[block.weight > 0].tolist(), step.drawn.ids.tolist()
            one = sampled_loss(scores, own, targets, drawn, log_q, live)
        total += float(weight[place]) * one
    return total


@pytest.mark.parametrize("case", [case for case in CASES if case != "new"])
def test_the_loss_of_a_step_is_the_plain_one(case: str) -> None:
    """With its derivative."""
    made = case_of(case)
    weights = random_weights(made.model)
    found = made.take(weights, 1)
    step, live = found.step, found.step.block.weight > 0
    assert live.any() and len(np.unique(step.block.target[live])) < live.sum(), "some target stands there twice"
    if step.drawn is not None and len(step.drawn.ids):
        assert np.isin(step.drawn.ids, step.block.target[live]).any(), "and some is drawn"
    expected = plain_loss(made, weights, step)
    assert found.total == pytest.approx(expected, rel=2e-4)
    assert found.mean == pytest.approx(expected / len(live), rel=2e-4)
    assert_slopes(found.slopes, lambda one: plain_loss(made, one, step) / len(live), weights, 1e-5, 2e-3)


def test_rows_are_left_out_for_that_of_a_new_item() -> None:
    """Half of the items that a step reads, each time others; they learn nothing from the step, the new bias does."""
    made, seen = case_of("new"), []
    weights = random_weights(made.model)
    for key in range(6):
        found = made.take(weights, 0, key)
        step = found.step
        read = np.union1d(step.block.target[step.block.weight > 0], step.drawn.ids)
        learned = np.any(found.slopes["tables"]["item"] != 0, axis=1)
        assert not learned[np.setdiff1d(np.arange(N_ITEMS), read)].any()
        new = np.isin(np.arange(N_ITEMS), read) & ~learned
        assert found.total == pytest.approx(plain_loss(made, weights, step, new), rel=2e-4)
        assert found.slopes["params"]["new_bias"] != 0 or not new.any()
        seen.append(new[read])
    assert 0.2 < np.mean(seen) < 0.8 and len({part.tobytes() for part in seen}) > 3
