"""The run directory: all that evaluating, recommending and resuming need."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import Dataset, RowsDataset, Schema, open_dataset, read_manifest
from jaxrec.data.items import Items
from jaxrec.data.store import checked, checksum, is_right, read_sealed, write_sealed
from jaxrec.data.store import write_text as write_text
from jaxrec.data.store import written as written
from jaxrec.errors import UserError, listed

KEPT = "kept.json"  # checksums of the arrays that a run keeps, beside them
BEGUN = ("dataset", "config.yaml.part")  # what a process killed within create_run leaves
RUN = (
    *BEGUN, "config.yaml", "metrics.jsonl", "tensorboard", "state", "learning_curve.png", "item_vectors.npz",
    "results.csv", "PERSONAS.md", "parts",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """An opened run directory: ``checkpoints/<run>/``."""

    path: Path
    config: Config
    manifest: dict[str, Any]

    @property
    def schema(self) -> Schema:
        """The fields that the run's model reads."""
        schema = Schema.from_manifest(self.manifest).select(self.config.data.fields)
        return schema.side("user", "item") if self.config.model.task == "retrieval" else schema

    @property
    def n_items(self) -> int:
        return int(self.manifest["counts"]["items"])

    def kept(self, name: str) -> np.ndarray:
        """An array that the run keeps, such as ``value_counts`` of rows: how many in training hold each coded value."""
        file, sums = (self.path / "dataset" / one for one in (f"{name}.npy", KEPT))
        try:
            given = read_sealed(sums) if sums.exists() else {}  # older runs have none
            if name in given and not is_right(file, given[name]):
                raise ValueError("checksum differs")
            array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: missing or damaged ({error}); train the run again") from None
        return array

    def keeps(self, name: str) -> bool:
        """Whether the run keeps such an array."""
        sums = self.path / "dataset" / KEPT
        try:
            return sums.exists() and name in read_sealed(sums)
        except ValueError as error:
            raise UserError(f"{sums}: damaged ({error}); train the run again") from None

    def vocabulary(self) -> Items:
        """The vocabulary that the run was trained with."""
        return Items.read(checked(self.path / "dataset", "items.parquet", self.manifest))


def create_run(
    path: Path, config: Config, dataset: Dataset | RowsDataset, overwrite: bool,
    kept: dict[str, np.ndarray] | None = None, copied: tuple[str, ...] = (),
) -> Run:  # fmt: skip
    """Make a run directory; ``config.yaml`` is written last, with it the run exists. Under ``dataset/`` it keeps the
    arrays ``kept``, by name, and the files of the data set that ``dataset.run_files`` and ``copied`` name."""
    doomed, place, kept = path.with_name(f".{path.name}.deleted"), path / "dataset", kept or {}
    shutil.rmtree(doomed, ignore_errors=True)  # of a process killed within --overwrite
    check_new(path, overwrite)
    if (path / "config.yaml").exists():
        path.rename(doomed)  # so that a kill leaves no half of it in its place
        shutil.rmtree(doomed)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name in (*dataset.run_files, *copied, "manifest.json"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dataset.path / name, place / name)
        for name, array in kept.items():
            np.save(place / f"{name}.npy", array)
        write_sealed(place / KEPT, {name: checksum(place / f"{name}.npy") for name in kept})
        write_text(path / "config.yaml", configuration.dump(config))
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path}: a parent of it is a file; choose another --run") from None
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return Run(path, config, dataset.manifest)


def check_new(path: Path, overwrite: bool, resumes: bool = True) -> None:
    """Refuse a place where no run can be made; ``resumes``: whether what asks could continue one."""
    if (path / "config.yaml").exists():
        if not overwrite:
            goes_on = "--resume continues it, " if resumes else ""
            raise UserError(f"{path}: a run is here already; {goes_on}--overwrite deletes it first")
        strange = [entry.name for entry in path.iterdir() if entry.name not in RUN and not entry.match("eval-*")]
        if strange or not (path / "dataset" / "manifest.json").exists():
            raise UserError(f"{path}: will not be overwritten: {(strange or ['it'])[0]} is not of a run; choose "
                            "another --run")  # fmt: skip
    elif path.exists() and (not path.is_dir() or any(entry.name not in BEGUN for entry in path.iterdir())):
        raise UserError(f"{path}: exists and is no run; choose another --run")


def open_run(path: str | Path | Run) -> Run:
    """Open a run directory; one that is open stays as it is."""
    if isinstance(path, Run):
        return path
    path = Path(path)
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path}: no run here (no config.yaml); train one with python -m jaxrec.train")
    if not (file := path / "dataset" / "manifest.json").is_file():
        raise UserError(f"{file}: missing; the run is damaged, train it again")
    config, manifest = configuration.load(path / "config.yaml"), read_manifest(file)
    if manifest["kind"] == "rows" and "repeats" not in config.data.model_fields_set:  # trained before there was such
        config = _with(config, "data", repeats="keep")
    return Run(path, config, manifest)


def open_run_data(run: Run, path: str | Path) -> Dataset | RowsDataset:
    """The data set that a run was trained on, of the run's kind."""
    dataset = open_dataset(path)
    if dataset.manifest["content_hash"] != run.manifest["content_hash"]:
        raise UserError(f"{path}: not the data set that {run.path} was trained on; name that one with --data")
    return dataset


def check_comparable(runs: Sequence[Run]) -> None:
    """Metrics say something side by side only where they were taken of the same data, cut in the same way."""
    for run in runs[1:]:
        for name in ("content_hash", "validation_fraction"):
            ours, theirs = ((one.manifest | dict(one.config.data))[name] for one in (runs[0], run))
            if ours != theirs:
                raise UserError(f"{runs[0].path} and {run.path}: not comparable, their data differ in {name} ({ours}, "
                                f"{theirs}); look at each apart")  # fmt: skip


def resume_run(
    path: Path, config: Config, dataset: Dataset | RowsDataset, kept: dict[str, np.ndarray] | None = None,
    copied: tuple[str, ...] = (),
) -> Run:  # fmt: skip
    """Open a run to continue it, or create it where it does not exist yet."""
    if not (path / "config.yaml").exists():
        return create_run(path, config, dataset, overwrite=False, kept=kept, copied=copied)
    run = open_run(path)
    old, epochs, other = run.config.training.epochs, config.training.epochs, "or train another --run"
    if epochs < old or (epochs > old and not run.config.extends):
        raise UserError(f"{path}: training.epochs: was {old}, now {epochs}; a resumed run cannot train for fewer, and "
                        "for more only where optimizer.schedule is constant and training.average_epochs 0; leave it, "
                        f"{other}")  # fmt: skip
    # Where the data lie does not matter, what is in them is compared below, as are the rows that data.repeats leaves;
    # and a run may change its devices, and train for longer. Runs of earlier versions have a loss.memory of 64.
    data = {name: getattr(run.config.data, name) for name in ("path", "repeats")
            if name in type(run.config.data).model_fields}  # fmt: skip
    loss = {"memory": getattr(run.config.loss, "memory", 0)} if getattr(config.loss, "memory", 0) is None else {}
    moved = _with(_with(_with(config, "loss", **loss), "data", **data), "training", epochs=old)
    moved = moved.model_copy(update={"mesh": run.config.mesh})
    if changed := difference(run.config.model_dump(mode="json"), moved.model_dump(mode="json")):
        raise UserError(f"{path}: cannot resume with a changed configuration ({changed}); leave it, {other}")
    if run.manifest["content_hash"] != dataset.manifest["content_hash"]:
        raise UserError(f"{dataset.path}: not the data set that {path} was trained on; prepare that again, {other}")
    counts = (kept or {}).get("value_counts")
    if counts is not None and not np.array_equal(counts, run.kept("value_counts")):
        raise UserError(f"{path}: was trained on other rows; resume it with --data.repeats "
                        f"{run.config.data.repeats or 'null'}, {other}")  # fmt: skip
    for ours, theirs in ((path / "dataset" / name, dataset.path / name) for name in copied):
        if not ours.is_file() or checksum(ours) != checksum(theirs):
            raise UserError(f"{theirs}: not what {path} was trained with; put that back, {other}")
    if epochs > old:
        run = replace(run, config=_with(run.config, "training", epochs=epochs))
        write_text(path / "config.yaml", configuration.dump(run.config))
    return run


def _with(config: Config, section: str, **fields: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=fields)})


def check_out(out: Path, endings: Sequence[str] = (), overwrite: bool = True) -> None:
    """Refuse a place where no file can go, or one of another kind, before anything is worked out."""
    if endings and out.suffix.lower() not in endings:
        raise UserError(f"{out}: found {out.suffix or 'no suffix'}; end its name in {listed(endings, 'or')}")
    if out.is_dir():
        raise UserError(f"{out}: a directory; name a file in it")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: no directory {out.parent}; make it first, or choose another place")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists already; --overwrite replaces it, or choose another name")


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first field that differs in nested tables, as ``section.field: was X, now Y``; empty where all are equal."""
    for name in before | after:
        old, new = (table.get(name, "not there") for table in (before, after))
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := difference(old, new):
                return f"{name}.{inner}"
        elif old != new:
            return f"{name}: was {old}, now {new}"
    return ""
