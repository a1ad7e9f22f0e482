"""The directory that ``python -m jaxrec.export`` writes: programs, their weights once, ids, vectors, and an example."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import __version__
from jaxrec.cli.command import progress
from jaxrec.data.store import MANIFEST, file_entry, write_file, write_sealed
from jaxrec.exporting.written import Written, described
from jaxrec.tasks import programs as loader
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.exported import BATCH, VECTORS, Exports, Padding, Program

FORMAT = 1
"""Version of exported directories."""
RAW_IDS = "position p stands for the raw id ids.npy[p]; ids that are not there are unknown and left out"
Writer = Callable[[Program, Exports, int, Path, dict[str, str]], Written]


def write_directory(
    stage: Path, loaded: Loaded, exports: Exports, writer: Writer, ending: str, batches: Sequence[int],
    header: dict[str, Any],
) -> None:  # fmt: skip
    """Fill an empty directory; ``header`` begins the manifest."""
    weights = _write_weights(stage, exports)
    places = {name: entry["file"] for name, entry in weights.items()}
    written, used = list[dict[str, Any]](), set[str]()
    with progress("exporting", len(exports.programs) * len(batches)) as update:
        for program in exports.programs:
            for batch in batches:
                one = writer(program, exports, batch, stage, places)
                file = f"{program.name}_{batch}.{ending}"
                (stage / file).write_bytes(one.content)
                inputs = [described(value, shape=[batch if size == BATCH else size for size in value.shape])
                          for value in program.inputs]  # fmt: skip
                written.append({"name": program.name, "batch": batch, "file": file, "weights": one.weights,
                                "inputs": inputs, "outputs": one.outputs})  # fmt: skip
                used.update(one.weights)
                update()
    for name, array in exports.arrays.items():
        write_file(stage, f"{name}.npy", array)
    if exports.items is not None:
        write_file(stage, "items.parquet", exports.items)
    _write_loader(stage, exports)
    _drop_unused(stage, weights, used)
    manifest = {
        "format": FORMAT, **header, "kind": loaded.run.config.model.task, "model": loaded.run.config.model.name,
        "checkpoint": loaded.which, "jaxrec": __version__, "jax": jax.__version__, **exports.entries,
        "raw_ids": RAW_IDS, "n_items": len(exports.arrays["ids"]),
        "weights": {name: entry for name, entry in weights.items() if name in used | {VECTORS}}, "programs": written,
        "files": {str(one.relative_to(stage)): file_entry(one) for one in sorted(stage.rglob("*")) if one.is_file()},
    }  # fmt: skip
    write_sealed(stage / MANIFEST, manifest)


def _write_weights(stage: Path, exports: Exports) -> dict[str, dict[str, Any]]:
    """Write the weights, equal ones once; what the manifest says of each."""
    entries, places = dict[str, dict[str, Any]](), dict[Any, str]()
    for name in sorted(exports.weights, key=lambda one: one != VECTORS):  # whose file has no other name
        array = np.asarray(exports.weights[name], order="C")  # ascontiguousarray makes a list of a number
        key = (array.shape, str(array.dtype), hashlib.sha256(array.data if array.size else b"").hexdigest())
        if key not in places:
            places[key] = f"{VECTORS}.npy" if name == VECTORS else f"weights/{name}.npy"
            write_file(stage, places[key], array)
        entries[name] = {"file": places[key], "shape": list(array.shape), "dtype": str(array.dtype),
                         "padding": list(exports.padding.get(name, Padding()))}  # fmt: skip
    return entries


def _drop_unused(stage: Path, weights: dict[str, Any], used: set[str]) -> None:
    """Remove the files of weights that no program reads; vectors stay."""
    kept = {weights[name]["file"] for name in used | {VECTORS} if name in weights}
    for file in {entry["file"] for entry in weights.values()} - kept:
        (stage / file).unlink()


def _write_loader(stage: Path, exports: Exports) -> None:
    """The example, which finds what it imports beside it."""
    for name, module in (("programs", loader), ("load", exports.loader)):
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        (stage / f"{name}.py").write_text(text.replace(f"from {loader.__name__} import", "from programs import"),
                                          encoding="utf-8")  # fmt: skip
