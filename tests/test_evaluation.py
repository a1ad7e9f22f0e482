"""The evaluator against brute force in NumPy, and the cutting of validation sessions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import load_parts, write_config
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_gru import all_scores

from jaxrec import run as runs
from jaxrec.config import load
from jaxrec.data.dataset import Sessions, open_sessions
from jaxrec.data.splits import cut_validation
from jaxrec.evaluate import evaluate
from jaxrec.models.base import make_model
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions import judge as evaluation
from jaxrec.tasks.sessions.judge import session_judge
from jaxrec.training.block import init_state
from jaxrec.training.optimizers import make_optimizer, make_schedule

KS = (1, 5, 20, 100)


def brute_force(parameters: dict[str, Any], sessions: Sessions, ks: tuple[int, ...], ties: str) -> dict[str, float]:
    """Every prefix of every session, all items, the definitions of the metrics."""
    ranks, tops = [], []
    for begin, end in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
        items = np.asarray(sessions.items[begin:end])
        scores = all_scores(parameters, items[:-1]).astype(np.float32)
        for row, target in zip(scores, items[1:], strict=True):
            others = np.delete(row, target)
            above, equal = int((others > row[target]).sum()), int((others == row[target]).sum())
            ranks.append(1 + above + {"conservative": equal, "standard": 0, "median": equal / 2}[ties])
            tops.append(np.argsort(-row, kind="stable"))
    result = {}
    for k in ks:
        hits = [rank for rank in ranks if rank <= k]
        result[f"recall@{k}"] = result[f"hit_rate@{k}"] = len(hits) / len(ranks)
        result[f"mrr@{k}"] = sum(1 / rank for rank in hits) / len(ranks)
        result[f"ndcg@{k}"] = sum(1 / math.log2(rank + 1) for rank in hits) / len(ranks)
        result[f"coverage@{k}"] = len({item for top in tops for item in top[:k]}) / len(tops[0])
    return result


def measured(judge: evaluation.Judge, parameters: dict[str, Any], coverage: bool = False) -> dict[str, float]:
    return judge(jax.tree.map(jnp.asarray, parameters), KS, max(KS) if coverage else 0).metrics


@pytest.fixture(scope="module", params=["constrained", "separate", "onehot"])
def setting(request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with two layers and large random parameters: (model, parameters, test split)."""
    file = write_config(
        tmp_path_factory.mktemp("evaluation") / "c.yaml", dataset, model={"layers": [12, 8], "embedding": request.param}
    )
    config = load(file)
    model = make_model(config, 100)
    state = init_state(model, make_optimizer(config.optimizer, make_schedule(config.optimizer, 1)), 5, 4)
    rng = np.random.default_rng(0)
    params, tables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), (state.params, state.tables)
    )
    return model, {"params": params, "tables": tables}, open_sessions(dataset).split("test").slice(0, 80)


def test_all_metrics_are_those_of_brute_force(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "QUERIES_PER_BLOCK", 50)  # blocks of 3 steps: sessions go on from one to the next
    model, parameters, sessions = setting
    evaluator = session_judge(model, sessions, 100, Evaluation(batch_size=16))
    found = measured(evaluator, parameters, coverage=True)
    wanted = brute_force(parameters, sessions, KS, "conservative")
    assert found.keys() == wanted.keys()
    assert evaluator.targets == sessions.counts["targets"] and evaluator.blocks > 5
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert 0 < found["recall@5"] < found["recall@20"] < found["recall@100"] == 1
    assert 0 < found["coverage@1"] < found["coverage@100"] == 1


@pytest.mark.parametrize("ties", ["conservative", "standard", "median"])
def test_ties_follow_the_named_rule(setting: Any, ties: str) -> None:
    """Every item stands twice in the table, so that each target has an equal."""
    model, parameters, sessions = setting
    tables = {name: table.copy() for name, table in parameters["tables"].items()}
    tables["item"][50:] = tables["item"][:50]
    doubled = {"params": parameters["params"], "tables": tables}
    evaluator = session_judge(model, sessions, 100, Evaluation(ties=ties, batch_size=16))
    found = measured(evaluator, doubled)
    wanted = brute_force(doubled, sessions, KS, ties)
    for name, value in found.items():
        assert value == pytest.approx(wanted[name], abs=1e-9), name


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_the_number_of_lanes_changes_nothing(setting: Any, batch_size: int) -> None:
    model, parameters, sessions = setting
    first = session_judge(model, sessions, 100, Evaluation(batch_size=16))
    other = session_judge(model, sessions, 100, Evaluation(batch_size=batch_size))
    assert measured(other, parameters, True) == pytest.approx(measured(first, parameters, True), abs=1e-9)


def test_the_memory_bound_changes_nothing(tmp_path: Path) -> None:
    """A catalogue so large that 1 MiB of scores does not hold 64 queries of it: ranked in parts."""
    rng = np.random.default_rng(0)
    n_items, lengths = 9000, rng.integers(2, 9, 100)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, n_items, offsets[-1]).astype(np.int32)
    sessions = Sessions(items, np.zeros(len(items), np.int64), offsets)
    config = load(write_config(tmp_path / "c.yaml", tmp_path))
    model = make_model(config, n_items)
    state = init_state(model, make_optimizer(config.optimizer, make_schedule(config.optimizer, 1)), 5, 4)
    item = np.asarray(state.tables["item"]).copy()
    item[:, -1] = rng.normal(size=n_items)  # biases: far apart, so that rounding swaps no two ranks
    item[items[1::2], -1] += 3.0  # and targets that are found
    tables = {"item": jnp.asarray(item)}
    in_parts, whole = (
        session_judge(model, sessions, n_items, Evaluation(memory=m))(
            {"params": state.params, "tables": tables}, (20, 100), 100
        ).metrics
        for m in (1, 64)
    )
    assert in_parts == pytest.approx(whole, abs=1e-3)
    assert 0.05 < whole["recall@100"] < 0.9


def test_a_pass_starts_from_scratch(setting: Any) -> None:
    """Hidden states of one pass do not leak into the next."""
    model, parameters, sessions = setting
    evaluator = session_judge(model, sessions, 100, Evaluation(batch_size=16))
    assert measured(evaluator, parameters) == measured(evaluator, parameters)


def test_the_trained_run_against_brute_force(run: Path, dataset: Path) -> None:
    parameters, opened = load_parts(run), runs.open_run(run)
    train, validation = cut_validation(
        open_sessions(dataset).split("train"), open_sessions(dataset).split("validation"), 0.1
    )
    for split, sessions in {"validation": validation, "test": open_sessions(dataset).split("test")}.items():
        wanted = brute_force(parameters, sessions, (5, 20), "conservative")
        found = evaluate(opened, split, ks=[5, 20])
        assert found["targets"] == sessions.counts["targets"]
        for name, value in wanted.items():
            # float32 against float64: at most one target (or item of the coverage) may differ
            one = 1 / 100 if "coverage" in name else 1 / found["targets"]
            assert found[name] == pytest.approx(value, abs=1.01 * one), name
    assert evaluate(opened, "train", ks=[5])["targets"] == train.counts["targets"]
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max(line["recall@20"] for line in logged if line["kind"] == "validation")
    assert evaluate(opened, "validation", ks=[20])["recall@20"] == pytest.approx(best, abs=1e-9)


def sessions_of(lengths: list[int]) -> Sessions:
    events = sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
    return Sessions(np.arange(events, dtype=np.int32), np.arange(events, dtype=np.int64), offsets)


def as_lists(sessions: Sessions) -> list[list[int]]:
    ends = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return [sessions.items[begin:end].tolist() for begin, end in ends]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.floats(0.001, 0.999))
def test_cut_validation_takes_the_last_whole_sessions_and_no_more(lengths: list[int], fraction: float) -> None:
    whole = sessions_of(lengths)
    train, validation = cut_validation(whole, sessions_of([]), fraction)
    assert as_lists(train) + as_lists(validation) == as_lists(whole)
    assert train.times.tolist() + validation.times.tolist() == whole.times.tolist()
    wanted = fraction * whole.counts["targets"]
    taken = validation.counts["targets"]
    assert taken >= wanted
    if len(validation):
        assert taken - (len(as_lists(validation)[0]) - 1) < wanted, "a session more than necessary"
    else:
        assert wanted == 0
