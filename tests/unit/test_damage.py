"""One bit flipped in any file that is read: refused in one line, or without any effect."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.data.dataset import RowsDataset, open_dataset
from jaxrec.data.items import open_catalogue, read_attributes
from jaxrec.data.store import checksum, sealed
from jaxrec.errors import UserError
from jaxrec.run import Run


def everything(folder: Path) -> dict[str, Any]:
    """All that is read of a data set of events: each array by its bytes."""
    data = open_dataset(folder)
    assert not isinstance(data, RowsDataset)
    catalogue = open_catalogue(folder, data.manifest, ("c0", "price"))
    arrays = [catalogue.vectors, catalogue.codes, catalogue.name_of]
    for split in ("train", "test"):
        arrays += [getattr(data.split(split), name) for name in ("items", "times", "offsets")]
    data.verify()
    attributes = read_attributes(folder, data.manifest).to_pydict()
    return {"manifest": data.manifest, "meta": catalogue.meta, "attributes": attributes,
            "arrays": [one.tobytes() for one in arrays]}  # fmt: skip


def kept(folder: Path) -> dict[str, Any]:
    """The arrays that a run keeps."""
    run = Run(folder, configuration.parse({"data": {"path": "x"}}), {})
    return {name: run.kept(name).tobytes() for name in ("value_counts", "example_times")}


def refused(read: Callable[[Path], Any], folder: Path, copy: Path) -> dict[str, float]:
    """Of each file the share of eight flipped bits that reading refuses; otherwise what is read has to be as it was."""
    shutil.copytree(folder, copy)
    wanted, random, shares = without_seals(read(folder)), np.random.default_rng(0), dict[str, float]()
    for file in sorted(place for place in folder.rglob("*") if place.is_file()):
        name, content, errors = str(file.relative_to(folder)), file.read_bytes(), list[str]()
        for bit in random.integers(0, 8 * len(content), 8):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << (bit % 8)
            (copy / name).write_bytes(damaged)
            try:
                assert without_seals(read(copy)) == wanted, (name, bit)
            except UserError as error:
                errors.append(str(error))
        (copy / name).write_bytes(content)
        shares[name] = len(errors) / 8
    return shares


def without_seals(found: dict[str, Any]) -> dict[str, Any]:
    """Without the checksums of JSON files, also where their very name was hit, and they stand under another one."""
    tables = {name: part for name, part in found.items() if isinstance(part, dict)}
    return found | {name: {key: one for key, one in part.items() if key[:3] != "che" and key[-3:] != "sum"}
                    for name, part in tables.items()}  # fmt: skip


def test_a_bit_of_a_data_set_and_of_what_a_run_keeps(worlds: Worlds, tmp_path: Path) -> None:
    shares = refused(everything, worlds.data("events"), tmp_path / "copy")
    assert any(name.endswith("vectors.npy") for name in shares) and "names.parquet" in shares
    for name, share in shares.items():  # spaces between the entries of a JSON file are not read
        assert share == 1 or (name.endswith(".json") and share > 0.5), name
    place = tmp_path / "run" / "dataset"
    place.mkdir(parents=True)
    arrays = {"value_counts": np.arange(9), "example_times": np.arange(5) * 1000}
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    (place / "kept.json").write_text(json.dumps(sealed({name: checksum(place / f"{name}.npy") for name in arrays})))
    shares = refused(kept, place.parent, tmp_path / "other")
    assert shares["dataset/value_counts.npy"] == shares["dataset/example_times.npy"] == 1
