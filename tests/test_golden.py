"""What this tree computes is what the golden record says, integers and data sets bit by bit and floats within 1e-5; and
directories of that version open, go on, evaluate and recommend as they did. Quickly a case of each model and table.

``cd tests; python -m test_golden OUT`` records what a tree computes: steps of training, orders of feeds, data sets, and
what the runs kept in ``tests/old`` evaluate and recommend.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import conftest  # noqa: F401  XLA's flags, before JAX starts
import jax
import numpy as np
import pytest
from helpers import arrays, call, same_metrics
from worlds import OLD, old_copy

from jaxrec import config as configuration
from jaxrec.cli import runtime
from jaxrec.data.dataset import open_dataset
from jaxrec.run import open_run
from jaxrec.tasks.base import Task, make_task
from jaxrec.training.block import Training

FILE = OLD / "golden.json"
STEPS = 20

# ---- cases -----------------------------------------------------------------------------------------------------------

Sections = dict[str, dict[str, Any]]


class Case(NamedTuple):
    """A data set of ``tests/old/data`` and a configuration for it."""

    data: str
    sections: Sections


def case(data_set: str, /, **sections: dict[str, Any]) -> Case:
    return Case(data_set, sections)


ADAM = {"name": "adam", "learning_rate": 0.01}
SAMPLED = {"name": "cross_entropy", "n_sample": 16}
NARM = {"name": "narm", "layers": [8], "embedding_dim": 8, "window": 5}
SASREC = {"name": "sasrec", "blocks": 2, "heads": 2, "embedding_dim": 8, "window": 5}
MERREC = {"name": "merrec", "layers": [8], "embedding_dim": 8, "text_dim": 8, "name_dim": 8, "event_dim": 4,
          "field_dim": 4, "window": 5, "item_fields": ["c0", "price"]}  # fmt: skip
AUTOINT = {"name": "autoint", "embedding_dim": 4, "blocks": 2, "heads": 2, "attention_dim": 4}
TOWERS = {"name": "two_tower", "embedding_dim": 4, "hidden": [8], "output_dim": 8}
BINARY = {"name": "binary"}
AUC = {"metric": "auc"}
PEOPLE = {"protocol": "cold_users", "test_fraction": 0.25}

TRAINING: dict[str, Case] = {
    "gru4rec cross_entropy, constrained": case(
        "sessions", model={"name": "gru4rec", "layers": [8], "dropout_embedding": 0.1, "dropout_hidden": 0.1},
        loss=SAMPLED | {"logq": 1.0, "sample_alpha": 0.5}, optimizer={"name": "adagrad", "momentum": 0.1},
    ),
    "gru4rec bpr_max elu, two layers, separate": case(
        "sessions", model={"name": "gru4rec", "layers": [8, 6], "embedding": "separate", "embedding_dim": 5},
        loss={"name": "bpr_max", "n_sample": 16, "bpreg": 0.5, "final_activation": "elu", "activation_alpha": 0.5},
        optimizer=ADAM | {"schedule": "linear", "warmup_steps": 4, "clip_norm": 0.5}, data={"order": "time"},
    ),
    "gru4rec top1_max, onehot": case(
        "sessions", model={"name": "gru4rec", "layers": [8], "embedding": "onehot", "dropout_embedding": 0.1},
        loss={"name": "top1_max", "n_sample": 8, "sample_alpha": 1.0}, optimizer={"name": "sgd", "momentum": 0.5},
        training={"precision": "bfloat16"},
    ),
    "narm sampled": case(
        "sessions", model=NARM | {"dropout_embedding": 0.1, "dropout_hidden": 0.1}, loss=SAMPLED | {"logq": 1.0},
        optimizer=ADAM, data={"half_life": 5, "order": "time"},
    ),
    "narm softmax": case(
        "sessions", model=NARM | {"attention": "softmax", "temperature": 8.0, "init_std": 0.1},
        loss={"name": "softmax", "label_smoothing": 0.1, "prior": 0.5}, optimizer=ADAM | {"weight_decay": 0.01},
        training={"average": 0.9},
    ),
    "sasrec sampled": case("sessions", model=SASREC | {"temperature": 8.0, "stride": 2}, loss=SAMPLED, optimizer=ADAM),
    "sasrec softmax": case(
        "sessions", model=SASREC | {"dropout_embedding": 0.1, "dropout_hidden": 0.1}, loss={"name": "softmax"},
        optimizer=ADAM,
    ),
    "merrec items": case("events", model=MERREC | {"head": "items"}, loss=SAMPLED | {"logq": 1.0}),
    "merrec text": case(
        "events", model=MERREC | {"head": "text", "temperature": 8.0, "dropout_hidden": 0.1},
        loss=SAMPLED | {"candidates": "all", "category_weight": 0.5}, optimizer=ADAM | {"schedule": "cosine"},
    ),
    "merrec both": case("events", model=MERREC, loss=SAMPLED, data={"unknown_rate": 0.2}),
    "merrec both, softmax": case("events", model=MERREC, loss={"name": "softmax"}, optimizer=ADAM | {"tables": "same"}),
    "autoint": case("clicks", model=AUTOINT, loss=BINARY, optimizer=ADAM, training=AUC),
    "autoint+ with ratings": case(
        "ratings", model=AUTOINT | {"attention_dim": 16, "deep": [8, 4], "norm": "layer", "dropout_hidden": 0.1,
                                    "dropout_attention": 0.1},
        loss=BINARY | {"rating_weight": 3.0, "embedding_l2": 0.1, "embedding_l2_power": 0.5}, optimizer=ADAM,
        training=AUC | {"average": 0.9}, data={"unknown_rate": 0.1},
    ),
    "autoint table rows, first_order weights": case(
        "clicks", model=AUTOINT | {"table": "rows", "first_order": "weights"}, loss=BINARY | {"embedding_l2": 0.1},
        training=AUC, data={"protocol": "temporal"},
    ),
    "autoint first_order logistic": case(
        "clicks", model=AUTOINT | {"first_order": "logistic"}, loss=BINARY, optimizer=ADAM, training=AUC,
    ),
    "two_tower triplet, hard negatives": case(
        "ratings", model=TOWERS | {"hidden": [], "norm": "none", "dropout_embedding": 0.1},
        loss={"name": "triplet", "margin": 0.3, "hard_negatives": 2, "hard_pool": 8, "refresh_steps": 6},
        optimizer=ADAM, training={"average": 0.9}, data=PEOPLE,
    ),
    "two_tower infonce, logq": case(
        "retrieval", model=TOWERS | {"dropout_hidden": 0.1}, optimizer=ADAM,
        loss={"name": "infonce", "n_sample": 8, "sample_alpha": 0.5, "logq": 1.0, "temperature": 0.2}, data=PEOPLE,
    ),
    "two_tower table rows": case(
        "ratings", model=TOWERS | {"table": "rows"}, loss={"name": "infonce", "mask": "duplicates"},
        data={"protocol": "leave_one_random"},
    ),
}  # fmt: skip

PACKED = {"layers": [4], "embedding_dim": 4, "window": 4, "stride": 3}
FEEDS: dict[str, Case] = {
    "lanes, random": case("sessions", model={"name": "gru4rec", "layers": [4]}),
    "lanes, time": case("sessions", model={"name": "gru4rec", "layers": [4]}, data={"order": "time"}),
    "packed, random": case("sessions", model={"name": "narm", **PACKED}, data={"half_life": 3}),
    "packed, time": case("sessions", model={"name": "narm", **PACKED}, data={"half_life": 3, "order": "time"}),
    "packed, stride 1": case("sessions", model=SASREC),
    "named": case("events", model=MERREC | {"stride": 2}, data={"half_life": 2}),
    "named, in time": case("events", model=MERREC, data={"order": "time"}),
    "rows": case("clicks", model=AUTOINT, loss=BINARY, training=AUC | {"passes": 3}),
    "rows, positives": case(
        "ratings", model=TOWERS, loss={"name": "triplet", "mask": "duplicates"}, training={"passes": 2}, data=PEOPLE
    ),
}
"""Training splits as they are fed; each is also streamed from the host, in the same order."""

# ---- the runs of tests/old: two epochs of each kind of data ----------------------------------------------------------

RESUMED = ["gru4rec", "merrec", "autoint", "two_tower"]
"""For a third epoch."""

EVALUATE: dict[str, list[str]] = {
    "gru4rec": ["--baselines", "pop", "spop", "itemknn", "vsknn", "stan"],
    "sasrec": ["--split", "validation"],
    "merrec": ["--baselines", "popularity", "name-neighbours"],
    "autoint": ["--baselines", "all", "--groups", "segment", "activity"],
    "two_tower": ["--baselines", "all", "--groups", "persona", "gender", "--folds", "2"],
}
"""What each is asked beside ``--json``."""

RECOMMEND: dict[str, list[list[str]]] = {
    "gru4rec": [["--items", "3", "17"], ["--items", "3", "17", "--include-seen", "--exclude", "5"],
                ["--similar-to", "3"], ["--items", "999"]],
    "sasrec": [["--items", "3", "17", "8"], ["--items", "3", "--candidates", "5", "6", "7", "8"]],
    "merrec": [["--events", "sequence.json", "--at", "2023-05-07T22:55:51"],
               ["--events", "events.json", "--where", "price >= 10"],
               ["--events", "events.json", "--at", "2023-05-06", "--include-bought"]],
    "autoint": [["--user", "7"], ["--user", "7", "--include-seen", "--where", "brand=brand3"],
                ["--profile", "segment=segment2", "age=25", "--date", "2024-01-15"], ["--user", "7", "--explain", "5"]],
    "two_tower": [["--profile", "skin_type=dry", "gender=F", "age=40"],
                  ["--profile", "skin_type=dry", "gender=F", "age=40", "--no-rules"],
                  ["--profile", "skin_type=oily", "--similar-customers"]],
}  # fmt: skip
"""What each is asked beside ``--k 10 --json``; users and items are those of the directories."""
PREPARE: dict[str, list[object]] = {
    "sessions": ["synthetic", "--items", 60, "--sessions", 400, "--mean-length", 5, "--successors", 4, "--epsilon", 0.1,
                 "--days", 10, "--test-days", 2],
    "events": ["merrec-synthetic", "--events", 900, "--items", 120, "--names", 40, "--users", 24, "--days", 8,
               "--test-days", 2, "--lifetime", 4],
    "clicks": ["rows-synthetic", "--rows", 900, "--users", 60, "--items", 40],
    "retrieval": ["personas-synthetic", "--customers", 120, "--products", 24, "--purchases", 3],
}  # fmt: skip
"""Data sets whose content hash is recorded; those of ``tests/old`` were made so."""

# ---- recording -------------------------------------------------------------------------------------------------------


def open_case(case: Case, **data: Any) -> tuple[configuration.Config, Task]:
    """The configuration and task of a case, on a data set of ``tests/old``."""
    sections: dict[str, Any] = {"mesh": {"data": 1}} | case.sections
    sections["data"] = {"path": str(OLD / "data" / case.data), **sections.get("data", {}), **data}
    sections["training"] = {"batch_size": 16, "steps_per_block": 10, "epochs": 2, **sections.get("training", {})}
    config = configuration.parse(sections)
    return config, make_task(config, open_dataset(config.data.path))


def record_training(name: str) -> dict[str, Any]:
    """Losses of some 20 steps, and the leaves of the state behind them."""
    config, task = open_case(TRAINING[name])
    training = Training(config, task.model, task.feed)
    state, constants, losses = training.begin(), training.constants(task.constants), list[str]()
    for block in chain.from_iterable(task.feed.epoch(epoch, 0) for epoch in range(STEPS)):
        state, stats = training.block(state, constants, block)
        losses += [str(one) for one in np.asarray(stats.loss)[: int(stats.steps)]]
        if len(losses) >= STEPS:
            break
    leaves = {path: as_line(path, leaf) for path, leaf in arrays(state).items()}
    return {"losses": " ".join(losses), "leaves": leaves}


def as_line(path: str, leaf: np.ndarray) -> str:
    """Shape, dtype and hash; of floats also the norm and two projections, on normal vectors that the path seeds."""
    sha = hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()[:12]
    start = f"{leaf.dtype}{list(leaf.shape)} {sha}".replace(", ", ",")
    if leaf.dtype.kind in "iub":
        return start
    flat, random = leaf.astype(np.float64).reshape(-1), np.random.default_rng(zlib.crc32(path.encode()))
    values = [np.sqrt(np.sum(flat**2)), *(np.sum(random.standard_normal(len(flat)) * flat) for _ in range(2))]
    return " ".join([start, *(str(np.float32(value)) for value in values)])


def record_feed(name: str, device_memory: int = 2048) -> dict[str, Any]:
    """Arrays of the blocks of two epochs."""
    _, task = open_case(FEEDS[name], device_memory=device_memory)
    found: dict[str, Any] = {"pairs": task.feed.pairs, "shape": vars(task.feed.shape)}
    for epoch in range(2):
        blocks = [jax.tree.map(np.asarray, block) for block in task.feed.epoch(epoch, 0)]
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)
        found |= {f"epoch {epoch}{path}": as_line(name, leaf) for path, leaf in arrays(whole).items()}
    return found


def printed(command: str, name: str, *words: object) -> Any:
    """What a command says of an old run with ``--json``, without timings; within ``old_copy``."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert call(command, "--run", f"runs/{name}", *words, "--json") == 0, err.getvalue()
    untimed = partial(filter, lambda pair: not pair[0].startswith("seconds"))
    return json.loads(out.getvalue(), object_pairs_hook=lambda pairs: dict(untimed(pairs)))


def record_evaluate(name: str, folds: bool = True) -> Any:
    return printed("evaluate", name, *(word if folds or word != "2" else "0" for word in EVALUATE[name]))


def record_recommend(name: str) -> list[Any]:
    """One answer for each question."""
    return [printed("recommend", name, *words, "--k", 10) for words in RECOMMEND[name]]


def record_resume(name: str) -> list[dict[str, Any]]:
    """``metrics.jsonl`` of an old run that went on for a third epoch."""
    place = Path("runs") / name
    assert call("train", "--config", place / "config.yaml", "--run", place, "--resume", "--training.epochs", 3) == 0
    return same_metrics(place)


def record_prepare(name: str) -> str:
    """The content hash of a data set made in the working directory."""
    assert call("prepare", *PREPARE[name], "--out", f"made/{name}") == 0
    return str(json.loads(Path(f"made/{name}/manifest.json").read_text(encoding="utf-8"))["content_hash"])


# ---- the record ------------------------------------------------------------------------------------------------------

RECORD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
NEAR = 1e-5
QUICK = {"gru4rec cross_entropy, constrained", "narm softmax", "merrec both", "autoint+ with ratings",
         "two_tower triplet, hard negatives", "gru4rec"}  # fmt: skip


def quickly(names: Any) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def numbers(line: str) -> list[float]:
    return [float(one) for one in line.split()]


def assert_leaves(found: dict[str, Any], recorded: dict[str, str]) -> None:
    """Arrays as lines: type, shape and hash, and of floats norm and projections.

    These are near relative to the norm, or to 0.1 if it is less: moments of gradients that vanish are rounding.
    """
    assert found.keys() == recorded.keys()
    for path, line in recorded.items():
        (kind, sha, *values), (old_kind, old_sha, *old) = found[path].split(), line.split()
        assert kind == old_kind and (values or sha == old_sha), f"{path}: {found[path]} was {line}"
        near = NEAR * (float((old or ["0"])[0]) + 0.1)
        assert numbers(" ".join(values)) == pytest.approx(numbers(" ".join(old)), rel=0, abs=near), path


def assert_like(found: Any, recorded: Any, place: str = "") -> None:
    """What commands printed as JSON. Scores are near place by place; recommendations that changed places tie."""
    if not isinstance(recorded, (dict, list, float)):
        assert found == recorded, place
    elif isinstance(recorded, float):
        assert found == pytest.approx(recorded, rel=NEAR, abs=1e-6), place
    elif isinstance(recorded, list):
        assert len(found) == len(recorded), place
        for number, (ours, theirs) in enumerate(zip(found, recorded, strict=True)):
            assert_like(ours, theirs, f"{place}[{number}]")
    else:
        assert found.keys() == recorded.keys(), place
        score = next((name for name in ("score", "probability") if name in recorded), "")
        thing = next((name for name in recorded if name != score), "")
        tied = score and found[thing] != recorded[thing]
        for name in [score] if tied else recorded:
            assert_like(found[name], recorded[name], f"{place}.{name}")


@pytest.mark.parametrize("name", quickly(TRAINING))
def test_training(name: str) -> None:
    """Losses of the first steps, then parameters, tables, optimizer and random key."""
    found, recorded = record_training(name), RECORD["training"][name]
    assert numbers(found["losses"]) == pytest.approx(numbers(recorded["losses"]), rel=NEAR)
    assert_leaves(found["leaves"], recorded["leaves"])


@pytest.mark.parametrize("device_memory", [0, pytest.param(2048, marks=pytest.mark.slow)], ids=["streamed", "resident"])
@pytest.mark.parametrize("name", FEEDS)
def test_order_of_feeds(name: str, device_memory: int) -> None:
    """Every array of the blocks of two epochs: integers are the same everywhere."""
    found, recorded = record_feed(name, device_memory), dict(RECORD["feeds"][name])
    for field in ("pairs", "shape"):
        assert found.pop(field) == recorded.pop(field)
    assert_leaves(found, recorded)


@pytest.mark.parametrize("name", PREPARE)
def test_prepared_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert record_prepare(name) == RECORD["prepare"][name]


# ---- old directories: resuming stands last, since it changes the run -------------------------------------------------


@pytest.fixture(scope="module")
def old() -> Iterator[None]:
    with old_copy():
        yield


@pytest.mark.parametrize("name", EVALUATE)
def test_old_run_evaluates(name: str, old: None) -> None:
    """Without folds, which train again and again."""
    recorded = {key: value for key, value in RECORD["evaluate"][name].items() if key not in ("by_review", "question")}
    found = record_evaluate(name, folds=False)
    assert_like({key: found[key] for key in recorded}, recorded)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, words in EVALUATE.items() if "--folds" in words])
def test_old_run_evaluates_by_folds(name: str, old: None) -> None:
    assert_like(record_evaluate(name), RECORD["evaluate"][name])


@pytest.mark.parametrize("name", EVALUATE)
def test_old_run_recommends(name: str, old: None) -> None:
    assert_like(record_recommend(name), RECORD["recommend"][name])


@pytest.mark.parametrize("name", quickly(RESUMED))
def test_old_run_resumes(name: str, old: None) -> None:
    """A third epoch, with the losses and metrics that it had."""
    config = open_run(f"runs/{name}").config
    assert configuration.load(f"runs/{name}/config.yaml") == config, "a file that names every field"
    assert_like(record_resume(name), RECORD["resume"][name])


if __name__ == "__main__":
    parts: dict[str, tuple[Any, Callable[[str], Any]]] = {
        "training": (TRAINING, record_training), "feeds": (FEEDS, record_feed), "evaluate": (EVALUATE, record_evaluate),
        "recommend": (RECOMMEND, record_recommend), "resume": (RESUMED, record_resume),
        "prepare": (PREPARE, record_prepare),
    }  # fmt: skip
    out, record = Path(sys.argv[1]).resolve(), {"machine": runtime.machine()}
    with old_copy():
        for part, (cases, make) in parts.items():
            record[part] = {name: make(name) for name in cases}
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
