"""python -m jaxrec.blend: a run made of trained runs of sessions and nearest neighbours."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse

from jaxrec import config as configuration
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, make_callable, progress, tell
from jaxrec.cli.lock import owned
from jaxrec.cli.text import check_path
from jaxrec.data.dataset import Dataset, Sessions
from jaxrec.data.given import read_list
from jaxrec.data.splits import Split
from jaxrec.errors import UserError
from jaxrec.models import blend as model_of
from jaxrec.models.blend import Blend, Weights
from jaxrec.run import check_new, create_run, open_run, open_run_data, write_text
from jaxrec.tasks.base import Loaded, load
from jaxrec.tasks.blend.fit import Sample, fit_weights
from jaxrec.tasks.blend.parts import INDEX, choices, fitted, slices, votes_of
from jaxrec.tasks.blend.task import BATCH, part_configs, rows_at_once
from jaxrec.tasks.sessions.task import session_splits
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.state import TrainState

DESCRIPTION = """\
Blend trained runs of sessions with nearest neighbours into a run that evaluates and recommends like any other:

  python -m jaxrec.blend --runs checkpoints/gru4rec checkpoints/narm --neighbours stan --run checkpoints/blend
  python -m jaxrec.evaluate --run checkpoints/blend --baselines all

The weights, which depend on the number of clicks, are those with the least log loss on the validation sessions that the
runs held out (data.validation_fraction). Where runs shall train on all of training, fit the weights first, train again
without data.validation_fraction, and give the first blend as --weights-of.
"""
TARGETS = 8192  # of validation, drawn at random but always the same, that weights are fitted on


class Parts(NamedTuple):
    """What a blend is made of."""

    loaded: list[Loaded]
    names: list[str]  # of the runs
    neighbours: list[str]
    data: Dataset
    split: Split  # as the runs were trained

    def weights(self) -> dict[str, Any]:
        """The networks' weights, as those of a ``Blend``."""
        params = {str(n): one.weights["params"] for n, one in enumerate(self.loaded)}
        tables = {f"{n}.{name}": table for n, one in enumerate(self.loaded)
                  for name, table in one.weights["tables"].items()}  # fmt: skip
        return {"params": params, "tables": tables}


def blend(
    runs: Sequence[str | Path], run: str | Path, neighbours: Sequence[str] = (), data: str | Path | None = None,
    weights_of: str | Path | None = None, overwrite: bool = False,
) -> None:  # fmt: skip
    """Make a run of trained runs of sessions and of nearest neighbours: answers are of their mixture.

    Args:
        runs: run directories of the same data set, trained with the same validation part.
        run: the run directory to make.
        neighbours: baselines by name, with parameters that shall differ from the defaults (``stan:k=100``).
        data: the dataset directory where it is no longer at the runs' ``data.path``.
        weights_of: another blend, whose weights hold: of runs like these that held validation sessions out, where these
            were trained on all of training. None: the weights are fitted on validation sessions.
        overwrite: whether a run that is there already is replaced.
    """
    path = Path(check_path("the run directory", str(run)))
    with owned(path, "makes this run", "choose another --run"):
        parts = _open(runs, neighbours, data)
        for option, used in (("--runs", [one.run.path for one in parts.loaded]), ("--weights-of", [weights_of])):
            if any(one is not None and Path(one).resolve() == path.resolve() for one in used):
                raise UserError(f"--run: {path} is named by {option} as well, and would be lost; choose another --run")
        check_new(path, overwrite, resumes=False)
        weights = _fitted(parts) if weights_of is None else _of(weights_of, parts)
        _write(path, parts, weights)


def _open(runs: Sequence[str | Path], neighbours: Sequence[str], data: str | Path | None) -> Parts:
    neighbours = [str(one) for one in read_list("neighbours", neighbours)]
    opened = [open_run(one) for one in read_list("runs", runs)]
    if not opened or len(opened) + len(neighbours) < 2:
        raise UserError("--runs, --neighbours: a blend needs two parts, one of them a run; name them")
    if len({str(one.path.resolve()) for one in opened}) < len(opened):
        raise UserError("--runs: names a run twice; leave one out")
    first = opened[0]
    for one in opened:
        if one.config.model.task != "sessions":
            raise UserError(f"{one.path}: a run of {one.config.model.name}, no model of sessions; choose others")
        for name, ours, theirs in (("data set", first.manifest["content_hash"], one.manifest["content_hash"]),
                                   ("data.validation_fraction", first.config.data.validation_fraction,
                                    one.config.data.validation_fraction)):  # fmt: skip
            if ours != theirs:
                raise UserError(f"{first.path} and {one.path}: differ in their {name} ({str(ours)[:12]}, "
                                f"{str(theirs)[:12]}); a blend needs runs of the same data")  # fmt: skip
    dataset = open_run_data(first, data or first.config.data.path)
    assert isinstance(dataset, Dataset)
    dataset.verify()
    names = [one.text for one in choices(neighbours)]
    return Parts([load(one, whole=True) for one in opened], [one.path.name for one in opened], names, dataset,
                 session_splits(first.config, dataset))  # fmt: skip


def _of(path: str | Path, parts: Parts) -> tuple[Weights, ...]:
    """The weights of another blend, of models of the same names and the same neighbours."""
    other = open_run(path)
    if other.config.model.task != "blend":
        raise UserError(f"{path}: a run of {other.config.model.name}; --weights-of names a blend")
    model, names = model_of.Config.of(other.config.model), [one.run.config.model.name for one in parts.loaded]
    theirs = [one.model.name for one in part_configs(other)]
    for option, ours, those in (("--runs", names, theirs), ("--neighbours", parts.neighbours, [*model.neighbours])):
        if ours != those:
            raise UserError(f"{option}: found {', '.join(ours) or 'none'}, and {path} blends "
                            f"{', '.join(those) or 'none'}; name the same kinds in the same order")  # fmt: skip
    return model.weights


def _fitted(parts: Parts) -> tuple[Weights, ...]:
    """The weights with the least log loss on validation sessions, which the runs have not been trained on."""
    config = parts.loaded[0].run.config
    if not len(parts.split.validation) or not parts.split.validation.counts["targets"]:
        raise UserError(f"{parts.loaded[0].run.path}: held no validation sessions out, on which weights are fitted; "
                        "train with data.validation_fraction, or name a blend as --weights-of")  # fmt: skip
    begin, model, weights = time.perf_counter(), Blend([one.model for one in parts.loaded], ()), parts.weights()
    with progress("blend: what the parts say"):
        sample = _sample(parts, model, weights)
    items = [one.items(tables) for one, _, tables in model.each(weights)]
    with progress("blend: fitting"):
        found, loss = fit_weights(sample, items, rows_at_once(parts.data.n_items, config.evaluation.memory))
    tell(f"log loss {loss:.4f} on {len(sample.targets):,} validation targets, {time.perf_counter() - begin:.0f} s")
    return found


def _sample(parts: Parts, model: Blend, weights: dict[str, Any]) -> Sample:
    config, held = parts.loaded[0].run.config, parts.split.validation
    methods = fitted(parts.neighbours, parts.split.train, parts.data.n_items)
    order = np.random.default_rng(0).permutation(len(held))
    fits = np.cumsum(_targets(held)[order]) <= TARGETS
    drawn = held if fits.all() else held.pick(np.sort(order[fits]))
    vectors: list[list[np.ndarray]] = [[] for _ in parts.loaded]
    votes: list[list[Any]] = [[] for _ in methods]
    targets, clicks = list[np.ndarray](), list[np.ndarray]()
    for part in slices(model, weights, drawn, config.evaluation):
        for whole, one in zip(vectors, part.vectors, strict=True):
            whole.append(one)
        for start in range(0, len(part.queries), BATCH):
            which = np.arange(start, min(start + BATCH, len(part.queries)))
            prefixes = part.queries.prefixes(which)
            targets.append(part.queries.targets[which])
            clicks.append(prefixes.lengths)
            for whole, one in zip(votes, votes_of(methods, prefixes), strict=True):
                whole.append(one)
    stacked = [sparse.csr_array(sparse.vstack(one)) for one in votes]
    for name, one in zip(parts.neighbours, stacked, strict=True):
        if not one.nnz:
            raise UserError(f"--neighbours {name}: finds no neighbours for any of {one.shape[0]:,} validation targets; "
                            "choose other parameters")  # fmt: skip
    return Sample([np.concatenate(one) for one in vectors], stacked, np.concatenate(targets).astype(np.int64),
                  np.concatenate(clicks))  # fmt: skip


def _targets(sessions: Sessions) -> np.ndarray:
    """int64[sessions]: targets of each."""
    lengths = np.diff(np.asarray(sessions.offsets))
    return (lengths > 1).astype(np.int64) if sessions.last_only else np.maximum(lengths - 1, 0)


def _write(path: Path, parts: Parts, weights: tuple[Weights, ...]) -> None:
    first = parts.loaded[0].run.config
    model = model_of.Config(networks=tuple(parts.names), neighbours=tuple(parts.neighbours), weights=weights)
    values = {"data": {"path": str(parts.data.path), "validation_fraction": first.data.validation_fraction},
              "model": model.model_dump(mode="json"),
              "evaluation": first.evaluation.model_dump(mode="json")}  # fmt: skip
    index = parts.split.train
    kept = {f"index_{name}": np.asarray(getattr(index, name)) for name in INDEX} if parts.neighbours else {}
    part = path.with_name(f".{path.name}.new")  # which is renamed when it is whole
    shutil.rmtree(part, ignore_errors=True)
    try:
        run = create_run(part, configuration.parse(values), parts.data, False, kept)
        (run.path / "parts").mkdir()
        for n, one in enumerate(parts.loaded):
            write_text(run.path / "parts" / f"{n}.yaml", configuration.dump(one.run.config))
        whole = parts.weights()
        state = TrainState(jnp.zeros((), jnp.int32), whole["params"], whole["tables"], None, {}, None, (), jnp.zeros(2))
        Checkpoints(run.path).save_best(state, {"made_of": parts.names})
        if path.exists():  # and may be overwritten
            shutil.rmtree(path)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    tell(f"{path}: {', '.join((*parts.names, *parts.neighbours))}")


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.blend``."""
    parser = Parser(prog="python -m jaxrec.blend", description=DESCRIPTION)
    add = parser.add_argument
    add("--runs", nargs="+", required=True, metavar="DIR", help="trained runs of sessions")
    add("--neighbours", nargs="*", default=[], metavar="NAME", help="baselines beside them, with parameters where they "
        "shall differ from the defaults: stan vsknn:k=200 returns")  # fmt: skip
    add("--run", required=True, metavar="DIR", help="run directory to make")
    add("--data", metavar="DIR", help="dataset directory, where it has moved since training")
    add("--weights-of", metavar="DIR", help="another blend whose weights hold, fitted on runs like these that held "
        "validation sessions out; these may have been trained on all")  # fmt: skip
    add("--overwrite", action="store_true", help="delete the run first, if there is one")
    options = parser.parse_args(argv)
    runtime.start()
    blend(options.runs, options.run, options.neighbours, options.data, options.weights_of, options.overwrite)


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(command(main))
