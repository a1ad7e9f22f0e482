"""Embeddings beside a data set: what the command writes, what is opened, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ROOT
from text_models import DIM, append, make_folder, vector_of

from jaxrec import text
from jaxrec.cli.command import command
from jaxrec.data.store import checksum, sealed
from jaxrec.data.text import encoding
from jaxrec.data.text import vectors as module
from jaxrec.data.text.vectors import open_name_vectors, write_name_vectors
from jaxrec.errors import UserError

NAMES = ["red dress", "手作りの財布", "lip balm", "Nike shoes", "vitamin C"]
KEPT = ["lip balm", "something else", *NAMES[:2], *NAMES[3:]]  # the cache's order is not that of the names


def write_data(place: Path, names: list[str] | None = None, unnamed: int = 2) -> Path:
    """A dataset directory with as much in it as embeddings need; without names if ``names`` is empty."""
    names = NAMES if names is None else names
    place.mkdir(exist_ok=True)
    pq.write_table(pa.table({"name": pa.array(names, pa.string())}), place / "names.parquet")
    entry = {"sha256": checksum(place / "names.parquet"), "bytes": (place / "names.parquet").stat().st_size}
    counts = {"items": 7 + unnamed, "names": len(names), "unnamed": unnamed, "train": {}, "validation": {}, "test": {}}
    files = {"items.parquet": entry, "names.parquet": entry}
    manifest = {"format": 1, "kind": "sessions", "content_hash": "0", "files": files, "counts": counts}
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def manifest_of(data: Path) -> dict[str, Any]:
    return dict(json.loads((data / "manifest.json").read_text()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a model, whose vectors of KEPT the cache has; no process may be started to make others."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a worker was started")

    folder = make_folder(tmp_path / "model")
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    append(tmp_path / "cache" / "text" / identity_of(folder), KEPT)
    monkeypatch.setattr(subprocess, "Popen", fail)
    return folder


def identity_of(folder: Path) -> str:
    return text.find_model(str(folder), lambda *_, **__: None)[1]


def write(data: Path, model: str = "some/model", identity: str = "some--model-1") -> Path:
    order = np.array([2, 0, 1, 4, 3])
    return write_name_vectors(data, manifest_of(data), model, identity, vector_of(NAMES)[order], np.argsort(order))


# --- the command ------------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> list[str]:
    capsys.readouterr()
    assert command(text.main, [str(word) for word in argv]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_names_of_a_data_set_are_embedded_once(
    data: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = data / "text" / identity_of(model)
    assert run(capsys, "--data", data, "--model", model) == [
        "7 items with names, 5 unique, 0 encoded now; 3 dimensions",
        "2 items without a name: their vectors are all zeros",
        f"wrote {place}",
    ]
    assert sorted(entry.name for entry in (data / "text").rglob("*")) == sorted(
        [place.name, "meta.json", "vectors.npy"]
    )
    opened = open_name_vectors(data, manifest_of(data))
    assert opened.folder == place
    assert opened.meta == sealed(
        {"format": 1, "model": str(model), "identity": place.name, "dim": DIM, "names": len(NAMES),
         "key": checksum(data / "names.parquet"), "sha256": checksum(place / "vectors.npy")}
    )  # fmt: skip
    assert isinstance(opened.vectors, np.memmap) and opened.vectors.dtype == np.float16
    np.testing.assert_array_equal(opened.vectors, vector_of(NAMES))
    monkeypatch.setattr(text, "encoded", None)
    assert run(capsys, "--data", data, "--model", model) == [f"{place}: there already, of 5 names; nothing to do"]


def test_what_is_damaged_or_of_other_names_is_written_anew(
    data: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = data / "text" / identity_of(model)
    for harm in ("truncated", "another catalogue"):
        run(capsys, "--data", data, "--model", model)
        if harm == "truncated":
            os.truncate(place / "vectors.npy", 130)
        else:
            write_data(data, NAMES[1:3], unnamed=0)
        assert run(capsys, "--data", data, "--model", model)[-1] == f"wrote {place}"
    np.testing.assert_array_equal(open_name_vectors(data, manifest_of(data)).vectors, vector_of(NAMES[1:3]))
    assert len(list((data / "text").iterdir())) == 1


def test_what_the_command_refuses(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(names: str, *argv: object) -> None:
        capsys.readouterr()
        assert command(text.main, [str(word) for word in argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert names in line

    fails("no data set here (no manifest.json)", "--data", tmp_path / "nowhere", "--model", model)
    fails("not allowed with argument", "--data", data, "--texts", "a.txt", "--model", model)
    fails("--out: not with --data", "--data", data, "--out", "a.npy", "--model", model)
    fails("--column: not with --data", "--data", data, "--column", "name", "--model", model)
    fails("no such folder", "--data", data, "--model", tmp_path / "nowhere")
    pq.write_table(pa.table({"name": ["another"]}), data / "names.parquet")
    fails("names.parquet: damaged or missing (checksum differs); prepare", "--data", data, "--model", model)
    (data / "names.parquet").unlink()
    fails("names.parquet: damaged or missing (checksum differs); prepare", "--data", data, "--model", model)
    fails("none of its 9 items has a name", "--data", write_data(data, []), "--model", model)
    manifest = manifest_of(data)
    del manifest["files"]["names.parquet"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    fails("its items have no names (no names.parquet); prepare it with the source merrec", "--data", data)
    assert not (data / "text").exists()


def test_a_hub_that_cannot_be_reached(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(words: list[str], *_: object) -> NoReturn:
        from jaxrec.data.text.worker import _unreachable

        assert words[:2] == ["fetch", "sentence-transformers/all-MiniLM-L6-v2"]
        raise UserError(_unreachable(words[1], OSError("no network")))

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(encoding, "_run", fetch)
    with pytest.raises(UserError, match=r"hub cannot be reached \(no network\); .*a local folder \(--model FOLDER\)"):
        text.main(["--data", str(data)])


# --- writing and opening ----------------------------------------------------------------------------------------------


def test_writing_is_whole_or_not_at_all(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    place = write(data)
    before = open_name_vectors(data, manifest_of(data))
    monkeypatch.setattr(module, "BLOCK", 2)
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", fail)
        with pytest.raises(OSError, match="No space"):
            write(data)
    assert [entry.name for entry in (data / "text").iterdir()] == [place.name]
    np.testing.assert_array_equal(open_name_vectors(data, manifest_of(data)).vectors, vector_of(NAMES))
    write(data)
    np.testing.assert_array_equal(open_name_vectors(data, manifest_of(data)).vectors, vector_of(NAMES))
    np.testing.assert_array_equal(before.vectors, vector_of(NAMES))  # what is mapped stays
    assert place.stat().st_mode & 0o077 == data.stat().st_mode & 0o077  # as readable by others as the data set


def refused(folder: Path, names: str, identity: str | None = None) -> None:
    with pytest.raises(UserError, match=names) as caught:
        open_name_vectors(folder, manifest_of(folder), identity)
    assert len(str(caught.value).splitlines()) == 1


def test_choosing(data: Path) -> None:
    manifest = manifest_of(data)
    make = rf"python -m jaxrec.text --data {data}"
    refused(data, f"no embeddings of its names.*{make}$")
    refused(data, "no embeddings of its names", "some/model")
    write(data)
    (data / "text" / ".x.tmp").mkdir()  # what a killed process may leave
    write(data, "other/model", "other--model-1")
    listed = r"other--model-1 \(model other/model\), some--model-1 \(model some/model\)"
    refused(data, f"several.*data.embeddings to one of {listed}")
    refused(data, f"no embeddings 'third'; there are {listed}; .*{make} --model third", "third")
    assert open_name_vectors(data, manifest, "some/model").meta["identity"] == "some--model-1"
    assert open_name_vectors(data, manifest, "other--model-1").meta["model"] == "other/model"
    write(data, "some/model", "some--model-2")
    refused(data, "several", "some/model")


def test_embeddings_of_another_catalogue(data: Path) -> None:
    write(data)
    write_data(data, NAMES[::-1])
    refused(data, "embeddings of another catalogue.*jaxrec.text --data .* --model some/model")


@pytest.mark.parametrize(
    ("file", "content", "names"),
    [
        ("meta.json", None, "No such file"),
        ("meta.json", b"{", "meta.json: damaged or missing"),
        ("meta.json", b"[]", "meta.json: damaged or missing"),
        ("meta.json", b'{"format": 1}', "meta.json: damaged or missing .'model'"),
        ("meta.json", b'{"format": "1"}', "meta.json: damaged"),
        ("vectors.npy", None, "No such file"),
        ("vectors.npy", b"", "vectors.npy: damaged or missing"),
        ("vectors.npy", b"no array", "vectors.npy: damaged or missing"),
        ("vectors.npy", 150, "vectors.npy: damaged or missing"),
        ("vectors.npy", np.zeros((4, DIM), np.float16), r"float16\[4, 3\], expected float16\[5, 3\]"),
        ("vectors.npy", np.zeros((5, DIM), np.float32), r"float32\[5, 3\], expected float16"),
    ],
)
def test_damage(file: str, content: Any, names: str, data: Path) -> None:
    place = write(data)
    if content is None:
        (place / file).unlink()
    elif isinstance(content, int):
        os.truncate(place / file, content)
    elif isinstance(content, bytes):
        (place / file).write_bytes(content)
    else:
        np.save(place / file, content)
    refused(data, f"{names}.*remove {place} and make them again with python -m jaxrec.text")


def test_another_format(data: Path) -> None:
    place = write(data)
    meta = json.loads((place / "meta.json").read_text())
    (place / "meta.json").write_text(json.dumps(sealed(meta | {"format": 2})))
    refused(data, "format version 2, this jaxrec reads 1")


def test_neither_jax_nor_torch_is_needed() -> None:
    program = (
        "import sys, jaxrec.data.text.encoding, jaxrec.data.filters; assert not {'jax', 'torch'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
