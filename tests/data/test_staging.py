"""What killed processes leave of a data set, and that one is there whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, write_config

from jaxrec.data import store as writing
from jaxrec.data.dataset import open_dataset
from jaxrec.data.store import sealed
from jaxrec.errors import UserError
from jaxrec.train import train


def _manifest(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_leftovers_of_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(writing, "_exchange", lambda one, other: False)
    out = tmp_path / "d[1]"
    left, others = tmp_path / ".d[1].abcdefgh.tmp", tmp_path / ".d[1].x.abcdefgh.tmp"
    _manifest(left / "dataset", "half")
    _manifest(others, "of d[1].x")
    with writing.staging(out) as stage:
        assert not left.exists()
        _manifest(stage.dataset, "one")
    with writing.staging(out, overwrite=True) as stage:
        _manifest(stage.dataset, "two")
    assert (out / "manifest.json").read_text() == "two"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".d[1].x.abcdefgh.tmp", "d[1]"]


def test_a_kill_between_two_renames_keeps_the_old_data(tmp_path: Path) -> None:
    left = tmp_path / ".d.abcdefgh.tmp"
    _manifest(left / "old", "old")
    _manifest(left / "dataset", "new")
    with pytest.raises(UserError, match="exists already"), writing.staging(tmp_path / "d"):
        pass
    assert (tmp_path / "d" / "manifest.json").read_text() == "old"
    assert not left.exists()


def test_an_exchange_leaves_no_moment_without_data(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _manifest(tmp_path / name, name)
    if not writing._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two names")
    assert (tmp_path / "a" / "manifest.json").read_text() == "b"


def test_a_data_set_is_whole_after_overwriting(tmp_path: Path) -> None:
    argv = ["prepare", "synthetic", "--sessions", "300", "--items", "20", "--out", str(tmp_path / "d")]
    assert call(*argv) == 0
    first = open_dataset(tmp_path / "d").manifest["content_hash"]
    assert call(*argv, "--seed", "1", "--overwrite") == 0
    assert open_dataset(tmp_path / "d").manifest["content_hash"] != first
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


# ---- damage -- -------------------------------------------------------------------------------------------------------


def _edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads(file.read_text())
    change(manifest)
    manifest.pop("checksum")
    file.write_text(json.dumps(sealed(manifest)))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 0xFF
    file.write_bytes(data)


def _lie(data: Path) -> None:
    """Offsets of the right size that do not fit the counts."""
    offsets = np.load(data / "train" / "offsets.npy")
    offsets[-1] += 5
    np.save(data / "train" / "offsets.npy", offsets)


DATASETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, r": no data set here .no manifest\.json.*jaxrec\.prepare"),
    "other version": (
        lambda data: _edit(data / "manifest.json", lambda manifest: manifest.update(format=99)),
        r"manifest\.json: format version 99, this jaxrec reads 1; prepare",
    ),
    "no counts": (
        lambda data: _edit(data / "manifest.json", lambda manifest: manifest.pop("counts")), r"damaged manifest.*counts"
    ),
    "truncated manifest": (lambda data: _truncate(data / "manifest.json"), r"manifest\.json: damaged manifest"),
    "empty manifest": (lambda data: (data / "manifest.json").write_bytes(b""), r"manifest\.json: damaged manifest"),
    "another JSON": (lambda data: (data / "manifest.json").write_text("[1]"), r"manifest\.json: damaged manifest"),
    "truncated items": (lambda data: _truncate(data / "train" / "items.npy"), r"train/items\.npy: damaged"),
    "no offsets": (lambda data: (data / "train" / "offsets.npy").unlink(), r"train/offsets\.npy: damaged or missing"),
    "no array": (
        lambda data: (data / "train" / "times.npy").write_bytes(b"x" * (data / "train" / "times.npy").stat().st_size),
        r"train/times\.npy: damaged",
    ),
    "flipped bytes": (lambda data: _flip(data / "train" / "items.npy"), r"train/items\.npy: damaged .*checksum"),
    "wrong offsets": (_lie, r"train/offsets\.npy: damaged .*checksum"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATASETS)
def test_damaged_data_sets(dataset: Path, tmp_path: Path, name: str) -> None:
    damage, names = DATASETS[name]
    data = shutil.copytree(dataset, tmp_path / "data")
    damage(data)
    config = write_config(tmp_path / "c.yaml", data)
    with pytest.raises(UserError, match=f"{re.escape(str(data))}.*{names}"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
