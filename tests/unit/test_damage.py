"""One bit flipped in any file that is read: refused in one line, or without any effect."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.data import store
from jaxrec.data.catalogue import open_catalogue
from jaxrec.data.dataset import open_dataset
from jaxrec.data.items import read_attributes
from jaxrec.data.rows import RowsDataset
from jaxrec.data.store import CHECKSUM, check_seal, checksum, is_right, sealed
from jaxrec.errors import UserError
from jaxrec.run import Run

FLIPS = 12  # of each file


def everything(folder: Path) -> dict[str, Any]:
    """All that is read of a data set of events: each array by its bytes."""
    data = open_dataset(folder)
    assert not isinstance(data, RowsDataset)
    catalogue = open_catalogue(folder, data.manifest, ("c0", "price"))
    found: dict[str, Any] = {"vectors": catalogue.vectors.tobytes(), "codes": catalogue.codes.tobytes(),
                             "names": catalogue.name_of.tobytes(), "meta": catalogue.meta,
                             "attributes": read_attributes(folder, data.manifest).to_pydict()}  # fmt: skip
    for split in ("train", "test"):
        sessions = data.split(split)
        found[split] = sessions.items.tobytes() + sessions.times.tobytes() + sessions.offsets.tobytes()
    data.verify()
    return found | {"manifest": data.manifest}


def kept(folder: Path) -> dict[str, Any]:
    """The arrays that a run keeps."""
    run = Run(folder, configuration.parse({"data": {"path": "x"}}), {})
    return {name: run.kept(name).tobytes() for name in ("value_counts", "example_times")}


def flipped(read: Callable[[Path], Any], folder: Path, copy: Path) -> dict[str, list[bool]]:
    """Of each file of a folder, whether what was read was refused, bit by bit; otherwise it has to be what it was."""
    wanted, random = without_seals(read(folder)), np.random.default_rng(0)
    refused: dict[str, list[bool]] = {}
    for file in sorted(place for place in folder.rglob("*") if place.is_file()):
        name, content = str(file.relative_to(folder)), file.read_bytes()
        refused[name] = []
        for bit in random.integers(0, 8 * len(content), FLIPS):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << (bit % 8)
            (copy / name).write_bytes(damaged)
            try:
                found = read(copy)
            except UserError as error:
                refused[name].append(len(str(error).splitlines()) == 1)
            else:
                assert without_seals(found) == wanted, (name, bit)
                refused[name].append(False)
        (copy / name).write_bytes(content)
    return refused


def without_seals(found: dict[str, Any]) -> dict[str, Any]:
    """Without the checksums of JSON files, also where their very name was hit, and they stand under another one."""
    tables = {name: part for name, part in found.items() if isinstance(part, dict)}
    return found | {name: {key: one for key, one in part.items() if key[:3] != "che" and key[-3:] != "sum"}
                    for name, part in tables.items()}  # fmt: skip


def test_a_data_set_and_its_name_vectors(worlds: Worlds, tmp_path: Path) -> None:
    folder = worlds.data("events")
    refused = flipped(everything, folder, Path(shutil.copytree(folder, tmp_path / "copy")))
    assert any(name.endswith("vectors.npy") for name in refused) and "names.parquet" in refused
    for name, outcomes in refused.items():
        assert all(outcomes) or name.endswith(".json"), name  # of which spaces between the entries are not read
        assert np.mean(outcomes) > 0.5, name


def test_arrays_that_a_run_keeps(tmp_path: Path) -> None:
    place = tmp_path / "run" / "dataset"
    place.mkdir(parents=True)
    arrays = {"value_counts": np.arange(9), "example_times": np.arange(5) * 1000}
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    (place / "kept.json").write_text(json.dumps(sealed({name: checksum(place / f"{name}.npy") for name in arrays})))
    refused = flipped(kept, place.parent, Path(shutil.copytree(place.parent, tmp_path / "copy")))
    assert all(refused["dataset/value_counts.npy"]) and all(refused["dataset/example_times.npy"])


def test_a_run_s_manifest_carries_its_checksum(run: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("manifest.json", "kept.json"):
        check_seal(json.loads((run / "dataset" / name).read_text()))
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    manifest = copy / "dataset" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"items": 100', '"items": 101'))
    assert call("recommend", "--run", copy, "--items", 7) == 2
    assert "manifest.json: damaged manifest" in capsys.readouterr().err


def test_a_manifest_of_before_is_read(dataset: Path, tmp_path: Path) -> None:
    """And says the same: its content hash does not know of the checksum."""
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest[CHECKSUM]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert open_dataset(copy).manifest == manifest
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest) | {"counts": {}}))
    with pytest.raises(UserError, match=r"manifest\.json: damaged manifest .*checksum differs"):
        open_dataset(copy)


def test_a_file_is_read_once_unless_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, read, plain = tmp_path / "a.npy", list[Path](), store.checksum
    file.write_bytes(b"one")
    right = plain(file)

    def counted(place: Path) -> str:
        read.append(place)
        return plain(place)

    monkeypatch.setattr(store, "checksum", counted)
    assert is_right(file, right) and is_right(file, right) and len(read) == 1
    file.write_bytes(b"another")
    assert not is_right(file, right) and len(read) == 2
