"""Records what this tree computes, so that a later one can be held against it: ``python tests/golden OUT``.

``--case TEXT`` keeps the cases whose name holds it and prints instead of writing.
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
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
from helpers import call, same_metrics

from golden.cases import EVALUATE, FEEDS, PREPARE, RECOMMEND, RESUMED, TRAINING, Case
from jaxrec import config as configuration
from jaxrec.cli import runtime
from jaxrec.data.dataset import open_dataset
from jaxrec.ops import parallel
from jaxrec.tasks.base import Task, make_task
from jaxrec.training.block import Training

OLD = Path(__file__).resolve().parent.parent / "old"
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


def open_case(case: Case, **data: Any) -> tuple[configuration.Config, Task]:
    """The configuration and task of a case, on a data set of ``tests/old``."""
    sections = {name: dict(fields) for name, fields in case.sections.items()}
    sections["data"] = {"path": str(OLD / "data" / case.data), **sections.get("data", {}), **data}
    sections["training"] = {"batch_size": 16, "steps_per_block": 10, "epochs": 2, **sections.get("training", {})}
    config = configuration.parse({**sections, "mesh": {"data": 1}})
    return config, make_task(config, open_dataset(config.data.path))


def record_training(name: str) -> dict[str, Any]:
    """Losses of some 20 steps, and the leaves of the state behind them."""
    config, task = open_case(TRAINING[name])
    training = Training(config, task.model, task.feed)
    state, constants, losses = training.begin(), parallel.replicate(task.constants, None), list[str]()
    for block in chain.from_iterable(task.feed.epoch(epoch, 0) for epoch in range(STEPS)):
        state, stats = training.block(state, constants, block)
        losses += [str(one) for one in np.asarray(stats.loss)[: int(stats.steps)]]
        if len(losses) >= STEPS:
            break
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    return {"losses": " ".join(losses), "leaves": {path: as_line(path, leaf) for path, leaf in leaves.items()}}


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
        for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
            found[f"epoch {epoch}{jax.tree_util.keystr(path)}"] = as_line(name, leaf)
    return found


def run(command: str, *argv: object) -> str:
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert call(command, *argv) == 0, err.getvalue()
    return out.getvalue()


def without_timings(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_timings(one) for name, one in value.items() if not name.startswith("seconds")}
    return [without_timings(one) for one in value] if isinstance(value, list) else value


def record_evaluate(name: str, folds: bool = True) -> Any:
    """``evaluate --json`` of an old run; the working directory is a copy of ``tests/old``."""
    words = [word if folds or word != "2" else "0" for word in EVALUATE[name]]
    return without_timings(json.loads(run("evaluate", "--run", f"runs/{name}", *words, "--json")))


def record_recommend(name: str) -> list[Any]:
    """``recommend --json`` of an old run, once for each question."""
    asked = [["--run", f"runs/{name}", *words, "--k", 10, "--json"] for words in RECOMMEND[name]]
    return [without_timings(json.loads(run("recommend", *words))) for words in asked]


def record_resume(name: str) -> list[dict[str, Any]]:
    """``metrics.jsonl`` of an old run that went on for a third epoch."""
    place = Path("runs") / name
    run("train", "--config", place / "config.yaml", "--run", place, "--resume", "--training.epochs", 3)
    return same_metrics(place)


def record_prepare(name: str) -> str:
    """The content hash of a data set made in the working directory."""
    run("prepare", *PREPARE[name], "--out", f"made/{name}")
    return str(json.loads(Path(f"made/{name}/manifest.json").read_text(encoding="utf-8"))["content_hash"])


@contextlib.contextmanager
def old_copy() -> Iterator[None]:
    """Inside, the working directory is a copy of ``tests/old``, its runs unpacked."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        shutil.copytree(OLD, "old")
        for file in Path("old/runs").iterdir():
            with tarfile.open(file) as archive:
                archive.extractall("old/runs", filter="data")
        with contextlib.chdir("old"):
            yield


PARTS: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "training": (TRAINING, record_training), "feeds": (FEEDS, record_feed), "evaluate": (EVALUATE, record_evaluate),
    "recommend": (RECOMMEND, record_recommend), "resume": (RESUMED, record_resume),
    "prepare": (PREPARE, record_prepare),
}  # fmt: skip


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
    options = parser.parse_args()
    runtime.start()
    found: dict[str, Any] = {"machine": machine()}
    with old_copy():
        for part, (cases, make) in PARTS.items():
            names = [name for name in cases if options.case in f"{part} {name}"]
            print(part, *names, sep="\n  ", file=sys.stderr)
            found[part] = {name: make(name) for name in names}
    print(as_text(found)) if options.case else options.out.write_text(as_text(found) + "\n", encoding="utf-8")
