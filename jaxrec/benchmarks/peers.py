"""Other people's code beside ours, in one sitting: the same sessions or rows, the same sizes, rounds in turn.

A peer is the authors' PyTorch code of GRU4Rec, which the user has cloned, or RecBole, where it is installed. It runs in
a process of its own (``peer_worker``), which waits on a pipe while ours is timed, as ours does while the peer is: a
drift of the machine meets both, and the ratio of each round is of two neighbours. Only a machine at rest is fair:
Torch's threads wait for each other in every operation, so that other work slows it far more than ours.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxrec
from jaxrec.benchmarks.case import Case, Prepared
from jaxrec.cli.command import progress
from jaxrec.data.store import checksum
from jaxrec.errors import UserError

REPOSITORY = "https://github.com/hidasib/GRU4Rec_PyTorch_Official"
MODULE, MARK = "gru4rec_pytorch.py", "class IndexedAdagradM"
FIND = "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])"


class Kind(NamedTuple):
    """A peer in general.

    Attributes:
        name: in messages and tables.
        needs: modules that its interpreter has to have.
        losses: by model that it has a counterpart of, those of our losses that the counterpart can stand beside.
        unlike: by model, what is to be said of a counterpart that differs.
    """

    name: str
    needs: tuple[str, ...]
    losses: dict[str, tuple[str, ...]]
    unlike: dict[str, str]


KINDS = {
    "authors": Kind("GRU4Rec_PyTorch_Official", ("torch", "numpy", "pandas"),
                    {"gru4rec": ("cross_entropy", "bpr_max")}, {}),
    "recbole": Kind("RecBole", ("torch", "numpy", "recbole"),
                    {"narm": ("softmax",), "sasrec": ("softmax",), "autoint": ("binary",),
                     "gru4rec": ("cross_entropy",)}, {"gru4rec": ", full softmax"}),
}  # fmt: skip


@dataclass(frozen=True)
class Peer:
    """What to measure beside ours.

    Attributes:
        kind: of ``KINDS``.
        path: of the checkout; empty for RecBole.
        python: the interpreter that has what the peer needs.
        version: commit of the checkout; empty for RecBole, which says it itself.
    """

    kind: str
    path: str
    python: str
    version: str

    def has(self, prepared: Prepared) -> bool:
        """Whether the peer has a counterpart of this row."""
        config = prepared.config
        return config.loss.name in self.of.losses.get(config.model.name, ())

    @property
    def of(self) -> Kind:
        """What holds for every peer of its kind."""
        return KINDS[self.kind]


class Theirs(NamedTuple):
    """A round of a peer: per second, steps and targets."""

    steps: float
    targets: float


# --- what the user says -----------------------------------------------------------------------------------------------


def find_peer(peer: str, python: str, models: Sequence[str], losses: Sequence[str]) -> Peer:
    """The peer that ``--peer`` names.

    Args:
        peer: ``recbole``, or the path of a checkout of the authors' code.
        python: of ``--peer-python``; looked for on the path of commands.
        models: that are to be measured.
        losses: the same; none: those that each model is measured with.
    """
    kind = "recbole" if peer == "recbole" else "authors"
    path, version = ("", "") if kind == "recbole" else (str(Path(peer).resolve()), _checkout(Path(peer)))
    known = KINDS[kind].losses
    for model in models:
        if model not in known or (losses and not set(losses) & set(known[model])):
            counterparts = "; ".join(f"{name} with {' or '.join(known[name])}" for name in known)
            raise UserError(
                f"--peer {peer}: has no counterpart of {' '.join([model, *losses])}, only of {counterparts}"
            )
    # Absolute, as the process runs elsewhere; but links stay, as they are how an interpreter knows its environment.
    place = str(Path(shutil.which(python) or python).absolute())
    try:
        line = [place, "-c", FIND, *KINDS[kind].needs]
        missing = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"--peer-python {python}: no working Python interpreter ({error}); name one") from None
    if missing:
        raise UserError(f"--peer-python {python}: has no {', '.join(missing)}; {_install(place, missing)}, or name "
                        "another interpreter")  # fmt: skip
    return Peer(kind, path, place, version)


def _checkout(path: Path) -> str:
    """The commit of the authors' code, or where there is none, that git knows, a checksum of its one file."""
    file = path / MODULE
    if not file.is_file() or MARK not in file.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"--peer {path}: no checkout of the authors' code (a {MODULE} with '{MARK}'); name 'recbole', "
                        f"or git clone {REPOSITORY} and name that folder")  # fmt: skip
    git = ["git", "-C", str(path), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    version = ""
    if (path / ".git").exists():
        with suppress(OSError, subprocess.CalledProcessError):
            version = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return version or f"sha256:{checksum(file)[:12]}"


def _install(python: str, packages: Sequence[str]) -> str:
    return f"{python} -m pip install {' '.join(packages)}".replace("recbole", "recbole==1.2.1")


# --- the process ------------------------------------------------------------------------------------------------------


def describe(peer: Peer, prepared: Prepared, steps: int, rounds: int) -> dict[str, Any]:
    """What the process of a peer is told: our sizes and settings, the most steps of a round, and how many rounds."""
    config = prepared.config
    model, loss = config.model, config.loss
    # What theirs asks for and ours has not: a window of gru4rec, bpreg of another loss.
    fields = {"window": 20, "bpreg": 1.0} | loss.model_dump(mode="json") | model.model_dump(mode="json")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # as XLA counts
    return {
        "peer": peer.kind, "path": peer.path, "device": jax.default_backend(), "threads": threads,
        "steps": steps, "rounds": rounds, "data": "data.npz",
        "model": model.name, "loss": loss.name, "batch": config.training.batch_size, "items": prepared.items,
        "units": prepared.shown["units"], "dim": prepared.shown["dim"],
        "dropout": [model.dropout_embedding, model.dropout_hidden], "learning_rate": config.optimizer.learning_rate,
        **{name: fields[name] for name in ("window", "blocks", "heads", "deep", "n_sample", "sample_alpha", "bpreg")
           if name in fields},
    }  # fmt: skip


class Process:
    """A peer at work; use as a context manager.

    Args:
        spec: of ``describe``.
        data: arrays that it trains on, by name.

    Attributes:
        says: its first answer: ``device``, ``torch`` and ``version``.
    """

    def __init__(self, peer: Peer, spec: dict[str, Any], data: dict[str, np.ndarray]) -> None:
        self._peer, self._spec, self._data = peer, spec, data

    def __enter__(self) -> Process:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrec-peer-")))
            # The working directory is where the other interpreter looks first: it finds this package there, and of
            # our environment nothing else.
            (folder / "jaxrec").symlink_to(Path(jaxrec.__file__).parent, target_is_directory=True)
            np.savez(folder / "data.npz", **self._data)  # type: ignore[arg-type]
            (folder / "spec.json").write_text(json.dumps(self._spec), encoding="utf-8")
            self._errors = folder / "stderr"
            line = [self._peer.python, "-W", "ignore", "-m", "jaxrec.benchmarks.peer_worker", "spec.json"]
            self._process = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
                stderr=stack.enter_context(open(self._errors, "w")),
            )  # fmt: skip
            stack.enter_context(self._process)  # closes the pipes and waits
            stack.callback(self._process.kill)
            self.says = self._answer()
            self._stack = stack.pop_all()
        return self

    def round(self, steps: int) -> Theirs:
        """Have it make so many steps."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead; the missing answer tells
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        answer = self._answer()
        return Theirs(answer["steps"] / answer["seconds"], answer["targets"] / answer["seconds"])

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line, name = self._process.stdout.readline(), self._peer.of.name
        if not line:
            status = self._process.wait()
            lines = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1] if lines else "without a word"
            raise UserError(f"{name}: its process has died with status {status} ({last}); mend that, or measure "
                            "without --peer")  # fmt: skip
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UserError(f"{name}: cannot be imported by {self._peer.python} ({answer['error']}); "
                            f"{_install(self._peer.python, self._peer.of.needs)}")  # fmt: skip
        return answer


# --- in turn ----------------------------------------------------------------------------------------------------------


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], Theirs], rounds: int, advance: Callable[[], None]
) -> tuple[list[float], list[Theirs]]:
    """Rounds of both, ours first; one round of each before them does not count."""
    ours(), theirs()
    pairs: list[tuple[float, Theirs]] = []
    for _ in range(rounds):
        pairs.append((ours(), theirs()))
        advance()
    return [mine for mine, _ in pairs], [other for _, other in pairs]


def measure_peers(peer: Peer, cases: Sequence[Case], steps: int | None, rounds: int) -> list[dict[str, Any]]:
    """A row for each case of which the peer has a counterpart.

    Args:
        steps: of a round; None: those of the row's block.
        rounds: of each.
    """
    chosen = [case for case in cases if peer.has(case.prepared)]
    with progress(f"beside {peer.of.name}", len(chosen) * rounds) as advance:
        return [_measure(peer, case, steps or case.prepared.config.training.steps_per_block, rounds, advance)
                for case in chosen]  # fmt: skip


def _measure(peer: Peer, case: Case, steps: int, rounds: int, advance: Callable[[], None]) -> dict[str, Any]:
    prepared, config = case.prepared, case.prepared.config
    with Process(peer, describe(peer, prepared, steps, rounds), prepared.data) as process:
        ours, theirs = in_turn(
            lambda: case.cut(steps).rate * prepared.targets, lambda: process.round(steps), rounds, advance
        )
    ratios = [mine / other.targets for mine, other in zip(ours, theirs, strict=True)]
    return {
        "peer": peer.of.name + peer.of.unlike.get(config.model.name, ""),
        "peer_version": peer.version or process.says["version"],
        "peer_device": process.says["device"],
        "torch": process.says["torch"],
        "model": config.model.name,
        "loss": config.loss.name,
        "batch": config.training.batch_size,
        "items": prepared.items,
        "steps_per_s": round(statistics.median(other.steps for other in theirs), 2),
        "events_per_s": round(statistics.median(other.targets for other in theirs), 1),
        "ours_events_per_s": round(statistics.median(ours), 1),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": round(statistics.median(ratios), 3),
    }


def peer_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for people."""
    first = rows[0]
    lines = [
        f"peer at {first['peer_version']} (torch {first['torch']}, {first['peer_device']}), "
        f"{len(first['ratios'])} rounds of each in turn; ratio of events/s, ours to theirs: median (range)",
        f"{'model':10}{'loss':16}{'beside':32}{'batch':>6}{'items':>10}{'their steps/s':>14}{'their events/s':>16}"
        f"{'our events/s':>14}{'ratio':>8}",
    ]
    for row in rows:
        lines.append(
            f"{row['model']:10}{row['loss']:16}{row['peer']:32}{row['batch']:6}{row['items']:10,}{row['steps_per_s']:14,.1f}"
            f"{row['events_per_s']:16,.0f}{row['ours_events_per_s']:14,.0f}{row['ratio']:8.2f} "
            f"({min(row['ratios']):.2f} - {max(row['ratios']):.2f})"
        )
    return "\n".join(lines)
