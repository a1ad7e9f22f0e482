"""The authors' PyTorch code of GRU4Rec beside ours, on the same sessions and sizes: in a process of its own
(``peer_worker``), round by round in turn, so that a drift of the machine meets both."""

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

from jaxrec.benchmarks.sweep import Case
from jaxrec.cli.command import progress
from jaxrec.data.dataset import Sessions
from jaxrec.data.store import checksum
from jaxrec.errors import UserError

REPOSITORY = "https://github.com/hidasib/GRU4Rec_PyTorch_Official"
NAME = REPOSITORY.rpartition("/")[2]
MODULE, MARK = "gru4rec_pytorch.py", "class IndexedAdagradM"
WORKER = Path(__file__).with_name("peer_worker.py")
LOSSES = ("cross_entropy", "bpr_max")  # of ours, that theirs can stand beside


class Peer(NamedTuple):
    """A checkout of the authors' code, its checksum, and the interpreter that has torch."""

    path: Path
    version: str
    python: str


def find_peer(checkout: str, python: str) -> Peer:
    """The peer that ``--peer`` and ``--peer-python`` name."""
    file = Path(checkout).resolve() / MODULE
    if not file.is_file() or MARK not in file.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"--peer {checkout}: no checkout of the authors' code (a {MODULE} with '{MARK}'); git clone "
                        f"{REPOSITORY} and name that folder")  # fmt: skip
    # Absolute, as the process runs elsewhere; but links stay, as they are how an interpreter knows its environment.
    place = Path(shutil.which(python) or python).absolute()
    if not os.access(place, os.X_OK):
        raise UserError(f"--peer-python {python}: no such Python interpreter; name one")
    return Peer(file.parent, f"sha256:{checksum(file)[:12]}", str(place))


def describe(peer: Peer, case: Case, rounds: int) -> dict[str, Any]:
    """What the process is told: our sizes and settings, the most steps of a round, and how many rounds."""
    config, affinity = case.prepared.config, getattr(os, "sched_getaffinity", None)
    loss = {"bpreg": 1.0} | config.loss.model_dump(mode="json")
    return {
        "path": str(peer.path), "device": jax.default_backend(), "steps": case.steps, "rounds": rounds,
        "threads": len(affinity(0)) if affinity else os.cpu_count(),  # as XLA counts
        "loss": config.loss.name, "batch": config.training.batch_size, "items": case.prepared.items,
        "units": config.model.layers[-1], "learning_rate": config.optimizer.learning_rate,
        **{name: loss[name] for name in ("n_sample", "sample_alpha", "bpreg")},
    }  # fmt: skip


@contextmanager
def running(
    peer: Peer, spec: dict[str, Any], sessions: Sessions
) -> Iterator[tuple[dict[str, str], Callable[[int], dict[str, float]]]]:
    """The peer at work: its first answer, and what has it make so many steps, and gives its answer on them."""
    with tempfile.TemporaryDirectory(prefix="jaxrec-peer-") as name:
        folder = Path(name)
        np.savez(folder / "data.npz", items=sessions.items, offsets=sessions.offsets)
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
                raise UserError(f"{NAME}: its process has died with status {status} "
                                f"({words[-1] if words else 'without a word'}); mend that (it needs torch, numpy and "
                                "pandas in --peer-python), or measure without --peer")  # fmt: skip

            try:
                yield ask(None), ask
            finally:
                process.kill()


def measure_peers(peer: Peer, cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """A row for each case of which the peer has a counterpart."""
    configs = [case.prepared.config for case in cases]
    chosen = [case for case, config in zip(cases, configs, strict=True)
              if config.model.name == "gru4rec" and config.loss.name in LOSSES]  # fmt: skip
    if not chosen:
        raise UserError(f"--peer: has no counterpart of these; measure gru4rec with {' or '.join(LOSSES)}")
    with progress(f"beside {NAME}", len(chosen) * (1 + rounds)) as advance:
        return [_measure(peer, case, rounds, advance) for case in chosen]


def _measure(peer: Peer, case: Case, rounds: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Rounds of both in turn, ours first; one round of each before them does not count."""
    prepared, config, ours, theirs = case.prepared, case.prepared.config, list[float](), list[dict[str, float]]()
    with running(peer, describe(peer, case, rounds), prepared.split) as (says, ask):
        for _ in range(1 + rounds):
            ours.append(case.run() * prepared.targets)
            theirs.append(ask(case.steps))
            advance()
    rates = [answer["targets"] / answer["seconds"] for answer in theirs[1:]]
    ratios = [mine / other for mine, other in zip(ours[1:], rates, strict=True)]
    return {
        "peer": NAME, "peer_version": peer.version, "peer_device": says["device"],
        "torch": says["torch"], "model": config.model.name, "loss": config.loss.name,
        "batch": config.training.batch_size, "items": prepared.items,
        "steps_per_s": round(median(answer["steps"] / answer["seconds"] for answer in theirs[1:]), 2),
        "events_per_s": round(median(rates), 1), "ours_events_per_s": round(median(ours[1:]), 1),
        "ratios": [round(ratio, 3) for ratio in ratios], "ratio": round(median(ratios), 3),
    }  # fmt: skip
