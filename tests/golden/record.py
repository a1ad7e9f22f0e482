"""Records what this tree computes, so that a later one can be held against it: ``python tests/golden OUT``.

``--case TEXT`` keeps the cases whose name holds it and prints instead of writing; ``--old`` first makes ``tests/old``
anew: data sets and runs, which later code has to open, written by the commands of this tree.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml
from helpers import call, same_metrics

from golden.cases import EVALUATE, FEEDS, OLD, RECOMMEND, RESUMED, TRAINING, Case
from jaxrec import config as configuration
from jaxrec.cli import runtime
from jaxrec.data.dataset import open_dataset
from jaxrec.ops import parallel
from jaxrec.tasks.base import Task, make_task
from jaxrec.training.block import Training

OLD_PLACE = Path(__file__).resolve().parent.parent / "old"
RECORD = Path(__file__).with_name("record.json")
STEPS = 20


def machine() -> dict[str, Any]:
    """What bits depend on: the processor, and versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    kept = {name: found.get(name, "") for name in ("model name", "cpu family", "model", "stepping")}
    flags = hashlib.sha256(" ".join(sorted(found.get("flags", "").split())).encode()).hexdigest()[:12]
    versions = {name: version(name) for name in ("jax", "jaxlib", "numpy", "scipy")}
    return {**kept, "flags": flags, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


# ---- training --------------------------------------------------------------------------------------------------------


def load(case: Case, file: Path, **data: Any) -> configuration.Config:
    """The configuration of a case, whose data set lies in ``tests/old`` or the working directory's ``data``."""
    sections = {name: dict(fields) for name, fields in case.sections.items()}
    sections["data"] = {"path": str(OLD_PLACE / "data" / case.data), **sections.get("data", {}), **data}
    sections["training"] = {"batch_size": 16, "steps_per_block": 10, "epochs": 2, **sections.get("training", {})}
    sections["mesh"] = {"data": 1}
    file.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return configuration.load(file)


def task_of(case: Case, **data: Any) -> tuple[configuration.Config, Task]:
    """The task of a case."""
    with tempfile.TemporaryDirectory() as place:
        config = load(case, Path(place) / "config.yaml", **data)
    return config, make_task(config, open_dataset(config.data.path))


def record_training(name: str) -> dict[str, Any]:
    """Losses of some 20 steps, and the leaves of the state behind them."""
    config, task = task_of(TRAINING[name])
    training = Training(config, task.model, task.feed)
    state = training.begin()
    constants, losses = parallel.replicate(task.constants, None), list[str]()
    for block in _blocks(task):
        state, stats = training.block(state, constants, block)
        losses += [str(one) for one in np.asarray(stats.loss)[: int(stats.steps)]]
        if len(losses) >= STEPS:
            break
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    return {"losses": " ".join(losses), "leaves": {path: _leaf(path, leaf) for path, leaf in leaves.items()}}


def _blocks(task: Task) -> Iterator[Any]:
    for epoch in range(STEPS):
        yield from task.feed.epoch(epoch, 0)


def _leaf(path: str, leaf: np.ndarray) -> str:
    """Shape, dtype and hash; of floats also the norm and two projections, on normal vectors that the path seeds."""
    start = f"{leaf.dtype}{list(leaf.shape)} {_sha(leaf)}".replace(", ", ",")
    if leaf.dtype.kind in "iub":
        return start
    flat = leaf.astype(np.float64).reshape(-1)
    random = np.random.default_rng(zlib.crc32(path.encode()))
    values = [np.sqrt(np.sum(flat**2)), *(np.sum(random.standard_normal(len(flat)) * flat) for _ in range(2))]
    return " ".join([start, *(str(np.float32(value)) for value in values)])


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]


# ---- feeds -----------------------------------------------------------------------------------------------------------


def record_feed(name: str, device_memory: int = 2048) -> dict[str, Any]:
    """Arrays of the blocks of two epochs."""
    _, task = task_of(FEEDS[name], device_memory=device_memory)
    found: dict[str, Any] = {"pairs": task.feed.pairs, "shape": vars(task.feed.shape)}
    for epoch in range(2):
        blocks = [jax.tree.map(np.asarray, block) for block in task.feed.epoch(epoch, 0)]
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)
        for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
            found[f"epoch {epoch}{jax.tree_util.keystr(path)}"] = _leaf(name, leaf)
    return found


# ---- commands --------------------------------------------------------------------------------------------------------


def said(command: str, *argv: object) -> Any:
    """What a command prints as JSON, without timings."""
    out, words = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(words):
        status = call(command, *argv)
    assert status == 0, words.getvalue()
    return without_timings(json.loads(out.getvalue()))


def without_timings(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_timings(one) for name, one in value.items() if not name.startswith("seconds")}
    return [without_timings(one) for one in value] if isinstance(value, list) else value


def record_evaluate(name: str, folds: bool = True) -> Any:
    """``evaluate --json`` of an old run; the working directory is a copy of ``tests/old``."""
    words = EVALUATE[name]
    at = words.index("--folds") if "--folds" in words and not folds else len(words)
    return said("evaluate", "--run", f"runs/{name}", *words[:at], *words[at + 2 :], "--json")


def record_recommend(name: str) -> list[Any]:
    """``recommend --json`` of an old run, once for each question."""
    return [said("recommend", "--run", f"runs/{name}", *words, "--k", 10, "--json") for words in RECOMMEND[name]]


def record_resume(name: str) -> list[dict[str, Any]]:
    """``metrics.jsonl`` of an old run that went on for a third epoch."""
    run = Path("runs") / name
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as words:
        status = call("train", "--config", run / "config.yaml", "--run", run, "--resume", "--training.epochs", 3)
    assert status == 0, words.getvalue()
    return same_metrics(run)


@contextlib.contextmanager
def old_copy() -> Iterator[None]:
    """Inside, the working directory is a copy of ``tests/old``, its runs unpacked."""
    with tempfile.TemporaryDirectory() as place:
        unpack_old(Path(place) / "old")
        with contextlib.chdir(Path(place) / "old"):
            yield


def unpack_old(out: Path) -> None:
    """Copy ``tests/old``, and unpack its runs."""
    shutil.copytree(OLD_PLACE, out)
    for name in OLD:
        with tarfile.open(out / f"runs/{name}.tar.xz") as archive:
            archive.extractall(out / "runs", filter="data")


# ---- making tests/old ------------------------------------------------------------------------------------------------

PREPARE: dict[str, list[object]] = {
    "sessions": ["synthetic", "--items", 60, "--sessions", 400, "--mean-length", 5, "--successors", 4, "--epsilon", 0.1,
                 "--days", 10, "--test-days", 2],
    "events": ["merrec-synthetic", "--events", 900, "--items", 120, "--names", 40, "--users", 24, "--days", 8,
               "--test-days", 2, "--lifetime", 4],
    "clicks": ["rows-synthetic", "--rows", 900, "--users", 60, "--items", 40],
    "retrieval": ["personas-synthetic", "--customers", 120, "--products", 24, "--purchases", 3],
}  # fmt: skip


def prepare(name: str, out: Path) -> str:
    """Make a data set; its content hash."""
    assert call("prepare", *PREPARE[name], "--out", out) == 0
    return str(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["content_hash"])


def make_old() -> None:
    """Write ``tests/old``: what opening, resuming, evaluating and recommending need, and nothing else."""
    from event_data import write_vectors
    from tower_data import write_source

    shutil.rmtree(OLD_PLACE, ignore_errors=True)
    OLD_PLACE.mkdir()
    with contextlib.chdir(OLD_PLACE):
        for name in PREPARE:
            prepare(name, Path("data") / name)
        write_vectors(Path("data/events"))
        write_source(Path("data/ratings"), learnable=True)
        for name, case in OLD.items():
            config = load(case, Path("config.yaml"), path=f"data/{case.data}")
            Path("config.yaml").write_text(configuration.dump(config), encoding="utf-8")
            assert call("train", "--config", "config.yaml", "--run", f"runs/{name}") == 0
        Path("config.yaml").unlink()
        events = said("recommend", "--run", "runs/merrec", "--example", "--seed", 3, "--json")["events"]
        kept = [{"item": one["item"], "event": one["event"]} for one in events]
        Path("events.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")
        for name in OLD:
            _pack(Path("runs") / name)


def _pack(run: Path) -> None:
    """Put a run into one small file: its newest and its best checkpoint, without pictures and TensorBoard's events."""
    steps = sorted((run / "state/latest").iterdir(), key=lambda place: int(place.name))
    for place in steps[:-1]:
        shutil.rmtree(place)
    for file in [*run.rglob("*.png"), *run.rglob("events.out.*")]:
        file.unlink()
    with tarfile.open(f"{run}.tar.xz", "w:xz") as archive:
        archive.add(run, run.name)
    shutil.rmtree(run)


# ---- the record ------------------------------------------------------------------------------------------------------


def record(chosen: str = "", note: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Everything, or the cases whose names hold ``chosen``."""
    found: dict[str, Any] = {"machine": machine()}
    with old_copy():
        for part, cases, make in (
            ("training", TRAINING, record_training), ("feeds", FEEDS, record_feed),
            ("evaluate", EVALUATE, record_evaluate), ("recommend", RECOMMEND, record_recommend),
            ("resume", RESUMED, record_resume), ("prepare", PREPARE, lambda name: prepare(name, Path("made") / name)),
        ):  # fmt: skip
            found[part] = {}
            for name in cases:
                if chosen in f"{part} {name}":
                    note(f"{part} {name}")
                    found[part][name] = make(name)
    return found


def as_text(value: Any, depth: int = 3) -> str:
    """JSON with a line for each value down to ``depth``."""
    if not depth or not isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"))
    lines = ",\n".join(f"{json.dumps(name)}:{as_text(one, depth - 1)}" for name, one in value.items())
    return f"{{\n{lines}\n}}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=RECORD)
    parser.add_argument("--case", default="", metavar="TEXT")
    parser.add_argument("--old", action="store_true")
    options = parser.parse_args()
    runtime.start()
    if options.old:
        make_old()
    found = record(options.case, lambda text: print(text, file=sys.stderr))
    print(as_text(found)) if options.case else options.out.write_text(as_text(found) + "\n", encoding="utf-8")
