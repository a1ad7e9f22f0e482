"""Other people's code beside ours, in one sitting: the same sessions or rows, the same sizes, rounds in turn.

A peer runs in a process of its own (``peer_worker``), which waits on a pipe while ours is timed, as ours does while the
peer is: a drift of the machine meets both, and the ratio of each round is of two neighbours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.benchmarks.sizes import Prepared
from jaxrec.benchmarks.sweep import Case
from jaxrec.cli.command import progress
from jaxrec.data.store import checksum
from jaxrec.errors import UserError

REPOSITORY = "https://github.com/hidasib/GRU4Rec_PyTorch_Official"
MODULE, MARK = "gru4rec_pytorch.py", "class IndexedAdagradM"
WORKER = Path(__file__).with_name("peer_worker.py")
AUTHORS, RECBOLE = "GRU4Rec_PyTorch_Official", "RecBole"
LOSSES: dict[str, dict[str, tuple[str, ...]]] = {
    AUTHORS: {"gru4rec": ("cross_entropy", "bpr_max")},
    RECBOLE: {"narm": ("softmax",), "sasrec": ("softmax",), "autoint": ("binary",), "gru4rec": ("cross_entropy",)},
}
"""By model that a peer has a counterpart of, those of our losses that the counterpart can stand beside."""


class Peer(NamedTuple):
    """What to measure beside ours: ``AUTHORS`` or ``RECBOLE``; the path and version (a checksum) of a checkout, empty
    for RecBole; and the interpreter that has what the peer needs."""

    name: str
    path: str
    python: str
    version: str


def find_peer(peer: str, python: str, models: Sequence[str], losses: Sequence[str]) -> Peer:
    """The peer that ``--peer`` and ``--peer-python`` name, for models and losses (none: each model's own)."""
    name, path, version = (RECBOLE if peer == "recbole" else AUTHORS), "", ""
    if name == AUTHORS:
        file = Path(peer).resolve() / MODULE
        if not file.is_file() or MARK not in file.read_text(encoding="utf-8", errors="replace"):
            raise UserError(f"--peer {peer}: no checkout of the authors' code (a {MODULE} with '{MARK}'); name "
                            f"'recbole', or git clone {REPOSITORY} and name that folder")  # fmt: skip
        path, version = str(file.parent), f"sha256:{checksum(file)[:12]}"
    for model in models:
        if not set(losses or LOSSES[name].get(model, ())) & set(LOSSES[name].get(model, ())):
            counterparts = "; ".join(f"{one} with {' or '.join(names)}" for one, names in LOSSES[name].items())
            raise UserError(f"--peer {peer}: has no counterpart of {' '.join([model, *losses])}, only of "
                            f"{counterparts}")  # fmt: skip
    # Absolute, as the process runs elsewhere; but links stay, as they are how an interpreter knows its environment.
    place = Path(shutil.which(python) or python).absolute()
    if not os.access(place, os.X_OK):
        raise UserError(f"--peer-python {python}: no such Python interpreter; name one")
    return Peer(name, path, str(place), version)


def describe(peer: Peer, prepared: Prepared, steps: int, rounds: int) -> dict[str, Any]:
    """What the process of a peer is told: our sizes and settings, the most steps of a round, and how many rounds."""
    config = prepared.config
    model, loss = config.model, config.loss
    # What theirs asks for and ours has not: a window of gru4rec, bpreg of another loss.
    fields = {"window": 20, "bpreg": 1.0} | loss.model_dump(mode="json") | model.model_dump(mode="json")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # as XLA counts
    names = ("window", "blocks", "heads", "deep", "n_sample", "sample_alpha", "bpreg")
    return {
        "peer": "recbole" if peer.name == RECBOLE else "authors", "path": peer.path, "device": jax.default_backend(),
        "threads": threads, "steps": steps, "rounds": rounds,
        "model": model.name, "loss": loss.name, "batch": config.training.batch_size, "items": prepared.items,
        "units": prepared.shown["units"], "dim": prepared.shown["dim"],
        "dropout": [model.dropout_embedding, model.dropout_hidden], "learning_rate": config.optimizer.learning_rate,
        **{name: fields[name] for name in names if name in fields},
    }  # fmt: skip


@contextmanager
def running(
    peer: Peer, spec: dict[str, Any], data: dict[str, np.ndarray]
) -> Iterator[tuple[dict[str, str], Callable[[int], dict[str, float]]]]:
    """A peer at work: its first answer, and what has it make so many steps, and gives its answer on them."""
    with tempfile.TemporaryDirectory(prefix="jaxrec-peer-") as name:
        folder = Path(name)
        np.savez(folder / "data.npz", **data)  # type: ignore[arg-type]
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        line, pipe = [peer.python, "-W", "ignore", str(WORKER), "spec.json"], subprocess.PIPE
        with (
            open(folder / "stderr", "w", encoding="utf-8") as errors,
            subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True, cwd=folder, stderr=errors) as process,
        ):
            assert process.stdin is not None and process.stdout is not None
            stdin, stdout = process.stdin, process.stdout

            def ask(steps: int | None) -> Any:
                with suppress(BrokenPipeError):  # it is dead; the missing answer tells
                    stdin.write("" if steps is None else f"{steps}\n")
                    stdin.flush()
                if text := stdout.readline():
                    return json.loads(text)
                status = process.wait()
                words = (folder / "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise UserError(f"{peer.name}: its process has died with status {status} "
                                f"({words[-1] if words else 'without a word'}); mend that (it needs torch, numpy and "
                                "pandas or recbole==1.2.1 in --peer-python), or measure without --peer")  # fmt: skip

            try:
                yield ask(None), ask
            finally:
                process.kill()


def measure_peers(peer: Peer, cases: Sequence[Case], steps: int | None, rounds: int) -> list[dict[str, Any]]:
    """A row for each case of which the peer has a counterpart; ``steps`` of a round, None: those of the row's block."""
    configs = [case.prepared.config for case in cases]
    chosen = [case for case, config in zip(cases, configs, strict=True)
              if config.loss.name in LOSSES[peer.name].get(config.model.name, ())]  # fmt: skip
    with progress(f"beside {peer.name}", len(chosen) * (1 + rounds)) as advance:
        return [_measure(peer, case, steps or case.prepared.config.training.steps_per_block, rounds, advance)
                for case in chosen]  # fmt: skip


def _measure(peer: Peer, case: Case, steps: int, rounds: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Rounds of both in turn, ours first; one round of each before them does not count."""
    prepared, config, ours, theirs = case.prepared, case.prepared.config, list[float](), list[dict[str, float]]()
    with running(peer, describe(peer, prepared, steps, rounds), prepared.data) as (says, ask):
        for _ in range(1 + rounds):
            ours.append(case.run(steps).rate * prepared.targets)
            theirs.append(ask(steps))
            advance()
    rates = [answer["targets"] / answer["seconds"] for answer in theirs[1:]]
    ratios = [mine / other for mine, other in zip(ours[1:], rates, strict=True)]
    unlike = ", full softmax" if (peer.name, config.model.name) == (RECBOLE, "gru4rec") else ""
    return {
        "peer": peer.name + unlike, "peer_version": peer.version or says["version"], "peer_device": says["device"],
        "torch": says["torch"], "model": config.model.name, "loss": config.loss.name,
        "batch": config.training.batch_size, "items": prepared.items,
        "steps_per_s": round(median(answer["steps"] / answer["seconds"] for answer in theirs[1:]), 2),
        "events_per_s": round(median(rates), 1), "ours_events_per_s": round(median(ours[1:]), 1),
        "ratios": [round(ratio, 3) for ratio in ratios], "ratio": round(median(ratios), 3),
    }  # fmt: skip
