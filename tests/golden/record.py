"""Records what this tree computes, to hold a later one against it: ``cd tests; python -m golden.record OUT``."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import conftest  # noqa: F401  XLA's flags, before JAX starts
import jax
import numpy as np
from helpers import arrays, call, same_metrics

from golden.cases import EVALUATE, FEEDS, PREPARE, RECOMMEND, RESUMED, TRAINING, Case
from jaxrec import config as configuration
from jaxrec.data.dataset import open_dataset
from jaxrec.ops import parallel
from jaxrec.tasks.base import Task, make_task
from jaxrec.training.block import Training

OLD = Path(__file__).resolve().parent.parent / "old"
RECORD = Path(__file__).with_name("record.json")
STEPS = 20


def machine() -> dict[str, Any]:
    """What bits depend on: the processor, and versions."""
    file = Path("/proc/cpuinfo")
    cpu = dict(re.findall(r"^(.*\S)\s*: (.*)$", file.read_text() if file.exists() else "", re.MULTILINE))
    kept = {name: cpu.get(name, "") for name in ("model name", "cpu family", "model", "stepping")}
    flags = hashlib.sha256(" ".join(sorted(cpu.get("flags", "").split())).encode()).hexdigest()[:12]
    versions = {name: version(name) for name in ("jax", "jaxlib", "numpy", "scipy")}
    return {**kept, "flags": flags, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


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
    state, constants, losses = training.begin(), parallel.replicate(task.constants, None), list[str]()
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


@contextlib.contextmanager
def old_copy() -> Iterator[None]:
    """Inside, the working directory is a copy of ``tests/old``, its runs unpacked."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        shutil.copytree(OLD, "old")
        with contextlib.chdir("old"):
            for file in Path("runs").iterdir():
                with tarfile.open(file) as archive:
                    archive.extractall("runs", filter="data")
            yield


if __name__ == "__main__":
    parts: dict[str, tuple[Any, Callable[[str], Any]]] = {
        "training": (TRAINING, record_training), "feeds": (FEEDS, record_feed), "evaluate": (EVALUATE, record_evaluate),
        "recommend": (RECOMMEND, record_recommend), "resume": (RESUMED, record_resume),
        "prepare": (PREPARE, record_prepare),
    }  # fmt: skip
    out, record = Path(sys.argv[1]).resolve(), {"machine": machine()}
    with old_copy():
        for part, (cases, make) in parts.items():
            record[part] = {name: make(name) for name in cases}
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
