"""What several test modules share: running commands, small data sets, configurations, and what a run left behind."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from jaxrec import Query, Recommender, prepare, recommend
from jaxrec import run as runs
from jaxrec.blend import main as blend_main
from jaxrec.cli.command import command
from jaxrec.data.dataset import Dataset, open_dataset
from jaxrec.evaluate import main as evaluate_main
from jaxrec.export import main as export_main
from jaxrec.leaderboard import __main__ as leaderboard
from jaxrec.plots import __main__ as plots
from jaxrec.replay import __main__ as replay
from jaxrec.serve import __main__ as serve
from jaxrec.tasks.base import load, part_of
from jaxrec.train import main as train_main
from jaxrec.training import telemetry
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule
from jaxrec.training.state import init_state
from jaxrec.training.telemetry import PARTS
from jaxrec.tune import __main__ as tune

ROOT = Path(__file__).resolve().parent.parent
MAINS: dict[str, Callable[[Sequence[str]], None]] = {
    "prepare": prepare.main, "train": train_main, "evaluate": evaluate_main, "recommend": recommend.main,
    "plots": plots.main, "tune": tune.main, "blend": blend_main, "leaderboard": leaderboard.main,
    "serve": serve.main,
    "export": export_main,
    "replay": replay.main,
}  # fmt: skip
BEGIN = 1_699_920_000  # s since 1970, a midnight: of the sessions of write_dataset
TIMINGS = ("steps_per_s", "events_per_s", "input_wait_share", *(f"seconds_{part}" for part in PARTS))
"""The only values that may differ from run to run."""

# Small enough to train in a second, skewed enough for popularity to matter.
SYNTHETIC = ["--items", "100", "--sessions", "1500", "--mean-length", "5", "--successors", "4", "--epsilon", "0.1"]
SYNTHETIC += ["--days", "10", "--test-days", "2"]


class Compilations:
    """Counts the programs that are compiled from when it is made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, *_: Any, **__: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def ranked(recommender: Recommender, sessions: Any, k: int | None = None, **options: Any) -> tuple[Any, Any]:
    """Ids and float32 scores of one session's items, or of those of several."""
    several = len(sessions) > 0 and isinstance(sessions[0], (list, tuple, np.ndarray))
    answers = recommender.recommend([Query(one) for one in (sessions if several else [sessions])], k, **options)
    ids = [[item.id for item in answer.items] for answer in answers]
    scores = [np.array([item.score for item in answer.items], np.float32) for answer in answers]
    return (ids, scores) if several else (ids[0], scores[0])


def call(name: str, *argv: object) -> int:
    """Run a command in process; returns its exit status."""
    return command(MAINS[name], [str(word) for word in argv])


def spawn(name: str, *argv: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start ``python -m jaxrec.<name>`` as a process of its own, with warnings as errors."""
    words = [sys.executable, "-W", "error", "-m", f"jaxrec.{name}", *map(str, argv)]
    pipe, environment = subprocess.PIPE, os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, cwd=cwd or ROOT, env=environment)


def run_process(name: str, *argv: object, cwd: Path | None = None) -> tuple[int, str, str]:
    """Run ``python -m jaxrec.<name>`` to its end: exit status, stdout, stderr without what slow machines add to it."""
    process = spawn(name, *argv, cwd=cwd)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, without_progress(err)


def without_progress(err: str) -> str:
    """What was printed on stderr, without the lines that say after every ten seconds how far the work is."""
    return re.sub(r"^[^\n]*(left|so far)\n", "", err, flags=re.MULTILINE)


def write_config(file: Path, dataset: Path, **sections: dict[str, Any]) -> Path:
    """Write a configuration for quick training; ``sections`` add to it and win over it, None takes the default."""
    values: dict[str, dict[str, Any]] = {
        "data": {"path": str(dataset), "validation_fraction": 0.1},
        "model": {"layers": [16], "embedding_dim": 12},
        "loss": {"n_sample": 32},
        "training": {"epochs": 2, "batch_size": 16, "steps_per_block": 50, "log_every": 2},
        "evaluation": {"k": [5, 20], "batch_size": 64},
    }
    for section, fields in sections.items():
        values[section] = values.get(section, {}) | fields
    values = {part: {name: one for name, one in fields.items() if one is not None} for part, fields in values.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def write_dataset(out: Path, sessions: Iterable[Sequence[object]], **options: object) -> Path:
    """Prepare ``sessions`` of raw item ids, one session an hour, through the ``events`` source."""
    lines = ["session,item,time"]
    for number, session in enumerate(sessions):
        lines += [f"{number},{item},{BEGIN + 3600 * number + second}" for second, item in enumerate(session)]
    out.parent.mkdir(parents=True, exist_ok=True)
    raw = out.with_suffix(".csv")
    raw.write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = {"raw": raw, "out": out, "session": "session", "item": "item", "time": "time", "time_unit": "s"}
    chosen = columns | {"min_item_support": 1, "test_days": 3} | options
    words = [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert call("prepare", "events", *words) == 0
    return out


def open_sessions(path: str | Path) -> Dataset:
    """A data set of sessions or events."""
    dataset = open_dataset(path)
    assert isinstance(dataset, Dataset), f"{path}: holds rows"
    return dataset


ALL = ("--test-days=0", "--min-item-support=1")  # of ``prepared``: every event stays


def prepared(out: Path, source: str, raw: Any, *argv: str) -> dict[str, Any]:
    """The manifest of a data set prepared anew, of a text or of a file."""
    if isinstance(raw, str):
        (file := out.with_suffix(".csv")).write_text(raw)
        raw = file
    prepare.main([source, "--raw", str(raw), *argv, "--out", str(out), "--overwrite", "--threads=1"])
    return dict(open_sessions(out).manifest)


def sessions(path: Path, split: str = "train") -> list[list[Any]]:
    """The sessions of a split in raw ids."""
    part = open_sessions(path).split(split)
    ids = pq.read_table(path / "items.parquet")["item"].to_pylist()
    return [[ids[i] for i in part.items[a:b]] for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]


def same_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without timings, which must be those of an uninterrupted run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def event_types() -> Any:
    """The types of TensorBoard's events. The package loads torch for them, which takes seconds, unless kept from it."""
    telemetry._tensorboard()
    return importlib.import_module("tensorboardX.proto.event_pb2")


def load_state(run: Path) -> tuple[Any, dict[str, Any]]:
    """The latest training state of a run of any kind and its position."""
    opened = runs.open_run(run)
    optimizer = make_optimizer(opened.config.optimizer, make_schedule(opened.config.optimizer, 1))
    model = part_of(opened.config, "task").build(opened)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # whatever devices trained it
    like = jax.eval_shape(lambda: init_state(model, optimizer, opened.config.training))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
    found = Checkpoints(run).restore(like)
    assert found is not None, f"{run}: no checkpoint"
    return found


def load_parts(run: Path) -> dict[str, Any]:
    """``{params, tables}`` that evaluating and recommending use, as NumPy arrays."""
    return jax.tree.map(np.asarray, load(run).weights)


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by their paths."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_arrays(left: Any, right: Any) -> None:
    """Every array of both trees is equal bit for bit."""
    ours, theirs = arrays(left), arrays(right)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype and value.shape == theirs[name].shape, name
        assert value.tobytes() == theirs[name].tobytes(), f"{name} differs"


def assert_same_run(run: Path, reference: Path) -> None:
    """Both runs ended alike: parameters, optimizer state, position and metrics, but for the timings."""
    (state, position), (expected, expected_position) = load_state(run), load_state(reference)
    assert_same_arrays(state, expected)
    for entries in (position, expected_position):
        del entries["seconds"], entries["metrics_bytes"]  # metrics.jsonl holds timings of varying width
    assert position == expected_position
    assert same_metrics(run) == same_metrics(reference)
    steps = [sorted(int(place.name) for place in (place / "state" / "best").iterdir()) for place in (run, reference)]
    assert steps[0] == steps[1], "best checkpoints"


def steps_of(run: Path, kind: str = "latest") -> list[int]:
    """The steps of a run's complete checkpoints, ascending."""
    place = run / "state" / kind
    return sorted(int(entry.name) for entry in place.iterdir() if entry.name.isdigit()) if place.is_dir() else []


def fails(capsys: pytest.CaptureFixture[str], *argv: object, names: str) -> str:
    """The command must end with status 2 and one line on stderr that matches ``names``; returns it."""
    capsys.readouterr()
    assert call(*map(str, argv)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("jaxrec: error: ")
    assert re.search(names, lines[0]), lines[0]
    return lines[0]
