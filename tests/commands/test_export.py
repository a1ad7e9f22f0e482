"""Exported directories: programs that a process without jaxrec runs, against what ``Recommender`` answers."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import call, fails
from jax import export as jax_export
from worlds import Clicks, Shop, Worlds

from jaxrec import Recommender
from jaxrec.data.dataset import RowsDataset, open_dataset
from jaxrec.tasks.base import load
from jaxrec.tasks.exported import Program, Value
from jaxrec.tasks.programs import Programs

SESSIONS = ("gru4rec", "narm", "sasrec", "hstu", "esasrec", "bert4rec")
MODELS = (*SESSIONS, "merrec", "autoint", "two_tower")
TRANSLATED = pytest.mark.skipif(
    importlib.util.find_spec("jax2onnx") is None, reason="jax2onnx is not installed (extra export)"
)
Directory = Callable[..., Path]


@pytest.fixture(scope="module")
def directory(worlds: Worlds) -> Directory:
    """Exports a run once."""

    def make(name: str, run: Path | None = None, form: str = "stablehlo") -> Path:
        sizes = (1, 4096) if name == "autoint" else (1, 16)
        words = ("--run", run or worlds.run(name), "--format", form, "--batch", *sizes)
        return worlds.once(f"exported-{name}-{form}", lambda out: call("export", *words, "--out", out))

    return make


def loader_of(programs: Programs) -> ModuleType:
    """The module that is written as ``load.py``."""
    return importlib.import_module(f"jaxrec.tasks.{programs.manifest['kind']}.load")


def sessions_of(r: Recommender, n: int) -> list[list[Any]]:
    """Sessions of 1 to 9 known ids, items repeated."""
    ids, random = r.kind.items.ids.values(), np.random.default_rng(n)
    return [[ids[at] for at in random.integers(0, len(ids), 1 + row % 9)] for row in range(n)]


def same(found: list[tuple[Any, float]], answer: Any) -> None:
    """Ids, and scores bit for bit."""
    assert [raw for raw, _ in found] == answer.ids
    assert np.array([score for _, score in found], answer.scores.dtype).tobytes() == answer.scores.tobytes()


# ---- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.numbers
@pytest.mark.parametrize("name", [*SESSIONS, "clock"])
def test_sessions_rank_to_the_last_bit(directory: Directory, worlds: Worlds, name: str) -> None:
    run = worlds.run("hstu", model={"time_bias": True}) if name == "clock" else worlds.run(name)
    programs, r = Programs(directory(name, run)), Recommender.load(run)
    sessions = sessions_of(r, 16)  # which recommend pads to 16 as well
    for asked in (sessions, [*sessions[-1:]], [["no such item", *sessions[5]]]):
        found = loader_of(programs).recommend(programs, asked)
        answers = r.recommend([{"items": one} for one in asked], 20)
        for one, answer in zip(found, answers, strict=True):
            same(one, answer)
    assert len(found[0]) == 20 and programs.manifest["n_items"] == r.n_items


@pytest.mark.numbers
@pytest.mark.parametrize("live", [False, True])
def test_events_rank_to_the_last_bit(directory: Directory, worlds: Worlds, live: bool) -> None:
    run = worlds.run("merrec")
    if live:
        run = worlds.run("merrec", data={"path": str(worlds.live())}, model={"head": "items", "item_fields": []})
    programs, r = Programs(directory("merrec-live" if live else "merrec", run)), Recommender.load(run)
    types, random = r.kind.types, np.random.default_rng(0)
    sequences = [[(item, types[random.integers(len(types))]) for item in one] for one in sessions_of(r, 12)]
    at = 1_682_985_600_000 if live else None
    found = loader_of(programs).recommend(programs, sequences, at)
    queries = [{"events": [{"item": item, "event": what} for item, what in one], "at": at and at / 1000}
               for one in sequences]  # fmt: skip
    for one, answer in zip(found, r.recommend(queries, 20), strict=True):
        same(one, answer)
    if live:
        there = r.kind.items.live(at)
        assert not there.all() and all(there[r.kind.items.index(item)] for one in found for item, _ in one)


@pytest.mark.numbers
@pytest.mark.parametrize(("user", "profile"), [
    (1017, {}), (1004, {"skin": "dry", "age": "44"}), (None, {"likes": "spa|gold", "age": 31}), ("nobody", {"age": 20}),
])  # fmt: skip
def test_two_towers_rank_to_the_last_bit(
    directory: Directory, worlds: Worlds, user: Any, profile: dict[str, Any]
) -> None:
    programs, r = Programs(directory("two_tower")), Recommender.load(worlds.run("two_tower"))
    found = loader_of(programs).recommend(programs, user, profile)
    same(found, r.recommend({"user": user, "profile": profile}, 20))
    assert not {Shop.product(item) for item in Shop.bought()[17]} & {raw for raw, _ in found} or user != 1017


@pytest.mark.numbers
@pytest.mark.parametrize(("user", "profile"), [(107, {}), (None, {"device": "phone", "age": "30"}), (999, {})])
def test_clicks_score_as_recommend_does(
    directory: Directory, worlds: Worlds, user: Any, profile: dict[str, Any]
) -> None:
    programs, r = Programs(directory("autoint")), Recommender.load(worlds.run("autoint"))
    found = loader_of(programs).recommend(programs, user, profile)
    answer = r.recommend({"user": user, "profile": profile}, 20)
    assert [raw for raw, _ in found] == answer.ids
    # NumPy's exp and SciPy's expit differ in the last bit of a float64.
    np.testing.assert_allclose([score for _, score in found], answer.scores, rtol=1e-15)


def test_logits_of_rows_are_those_of_score(directory: Directory, worlds: Worlds) -> None:
    programs, run = Programs(directory("autoint")), worlds.run("autoint")
    data = open_dataset(worlds.data("clicks"))
    assert isinstance(data, RowsDataset)
    rows = data.rows()
    loaded = Recommender.load(run)
    columns, numbers = rows.columns[:100], np.zeros((100, len(data.schema.numerical)), np.float32)
    (logits,) = programs("score", columns, numbers)
    assert logits.tobytes() == loaded.kind._score(columns, numbers).tobytes()


# ---- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gru4rec", "autoint", "two_tower"])
def test_the_manifest_says_what_programs_take_and_give(directory: Directory, name: str) -> None:
    place = directory(name)
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["needs"] == ["jax", "numpy", "flatbuffers"] and manifest["model"] == name
    files = {one["file"] for one in manifest["weights"].values()}
    for one in manifest["weights"].values():
        array = np.load(place / one["file"])
        assert (list(array.shape), str(array.dtype)) == (one["shape"], one["dtype"])
    assert {str(file.relative_to(place)) for file in place.glob("weights/*")} <= files
    assert len({(place / file).read_bytes() for file in files}) == len(files)  # each once
    assert {one["batch"] for one in manifest["programs"]} == ({1, 4096} if name == "autoint" else {1, 16})
    for program in manifest["programs"]:
        exported = jax_export.deserialize(bytearray((place / program["file"]).read_bytes()))
        assert exported.platforms == ("cpu", "tpu", "cuda")
        taken, given = [[(list(map(str, one.shape)), str(one.dtype)) for one in avals]
                        for avals in (exported.in_avals, exported.out_avals)]  # fmt: skip
        weights = [manifest["weights"][one] for one in program["weights"]]
        shapes: list[Any] = [
            [one["shape"][0] + sum(one["padding"]), *one["shape"][1:]] if one["shape"] else [] for one in weights
        ]
        expected = [(list(map(str, shape)), one["dtype"]) for shape, one in zip(shapes, weights, strict=True)]
        said = [[(list(map(str, one["shape"])), one["dtype"]) for one in program[part]]
                for part in ("inputs", "outputs")]  # fmt: skip
        assert taken == expected + said[0] and given == said[1]
        assert all(one["meaning"] for one in (*program["inputs"], *program["outputs"]))


@pytest.mark.parametrize("name", ["gru4rec", "merrec", "two_tower"])
def test_vectors_are_those_that_recommend_writes(directory: Directory, worlds: Worlds, name: str) -> None:
    place = directory(name)
    table, expected = pq.read_table(place / "items.parquet"), Recommender.load(worlds.run(name)).vectors()
    assert table.equals(expected)
    np.testing.assert_array_equal(np.load(place / "vectors.npy"), np.array(table["vector"].to_pylist(), np.float32))
    assert np.load(place / "ids.npy").tolist() == table["id"].to_pylist()


def test_a_field_of_an_unseen_value_is_unknown(directory: Directory) -> None:
    programs = Programs(directory("autoint"))
    (device,) = [one for one in programs.manifest["fields"] if one["name"] == "device"]
    at = slice(*device["columns"])
    known, strange, rare = (programs.row(None, {"device": one})[1][at] for one in ("desk", "boat", Clicks.rare_device))
    assert known[0] > 0 and strange[0] == rare[0] == 0


@pytest.mark.parametrize(("name", "words"), [
    ("gru4rec", ["sku-03", "sku-07"]), ("merrec", None), ("autoint", ["107"]), ("two_tower", ["skin=dry"]),
])  # fmt: skip
def test_the_example_needs_neither_jaxrec_nor_flax(
    directory: Directory, name: str, words: list[str] | None, tmp_path: Path
) -> None:
    place = directory(name)
    if words is None:
        words = [f"{np.load(place / 'ids.npy')[3]}:item_view"]
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; sys.path[0] = sys.argv[0].rpartition('/')[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__'); "
        "bad = {one.partition('.')[0] for one in sys.modules} & {'jaxrec', 'flax', 'pyarrow', 'optax', 'orbax'}; "
        "assert not bad, bad"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(place / "load.py"), *words]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr
    found = loader_of(programs := Programs(place))
    expected = {"sessions": lambda: found.recommend(programs, [words])[0],
                "events": lambda: found.recommend(programs, [[(words[0].partition(":")[0], "item_view")]])[0],
                "clicks": lambda: found.recommend(programs, words[0]),
                "retrieval": lambda: found.recommend(programs, None, {"skin": "dry"})}  # fmt: skip
    lines = [f"{item} {score:.4f}" for item, score in expected[programs.manifest["kind"]]()]
    assert ended.stdout.splitlines() == lines and len(lines) > 5


def test_an_example_says_what_it_does_not_know(directory: Directory, tmp_path: Path) -> None:
    for name, word, said in (("gru4rec", "nothing", "no item of these"), ("two_tower", "skim=dry", "no field 'skim'")):
        command = [sys.executable, str(directory(name) / "load.py"), word]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert ended.returncode == 1 and said in ended.stderr and len(ended.stderr.splitlines()) == 1, ended.stderr


def test_a_run_of_some_fields(worlds: Worlds, tmp_path: Path) -> None:
    fields = ["age", "device", "month", "group"]
    run = worlds.run("autoint", data={"fields": fields})
    assert call("export", "--run", run, "--out", tmp_path / "x", "--batch", 8, "--platforms", "cpu") == 0
    programs, r = Programs(tmp_path / "x"), Recommender.load(run)
    assert [one["name"] for one in programs.manifest["fields"]] == ["device", "month", "group", "age"]
    found = loader_of(programs).recommend(programs, None, {"device": "desk"})
    assert [raw for raw, _ in found] == r.recommend({"profile": {"device": "desk"}}, 20).ids


def test_a_run_without_items_exports_its_score(worlds: Worlds, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [f"{device},{random.integers(100)},{int(random.random() < 0.3)}" for device in "abcd" * 100]
    (file := tmp_path / "log.csv").write_text("\n".join(["device,age,clicked", *lines]) + "\n")
    words = ("--label", "clicked", "--categorical", "device", "--numerical", "age", "--out", tmp_path / "data")
    assert call("prepare", "rows", "--raw", file, *words) == 0
    run = worlds.run("autoint", data={"path": str(tmp_path / "data")}, training={"passes": 1, "metric": "auc"})
    assert call("export", "--run", run, "--out", tmp_path / "x", "--batch", 8, "--platforms", "cpu") == 0
    programs, model = Programs(tmp_path / "x"), load(run)
    _, columns, numbers = programs.row(None, {"device": "c", "age": "41"})
    found = loader_of(programs).probabilities(programs, columns[None], numbers[None])
    weights = model.weights["params"], model.weights["tables"]
    field = next(one for one in model.run.schema.fields if one.name == "age")
    row = np.array([[3]], np.int32), np.array([[field.standardised(41.0)]], np.float32)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-model.model.logits(*weights, *row))), rtol=1e-5)


# ---- ONNX ------------------------------------------------------------------------------------------------------------


@TRANSLATED
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_the_same_numbers(directory: Directory, worlds: Worlds, name: str) -> None:
    """Within 1e-5 of the largest number of each output; and the same items."""
    ours, theirs = Programs(directory(name)), Programs(directory(name, form="onnx"))
    assert theirs.manifest["needs"] == ["onnxruntime", "numpy"]
    r, random = Recommender.load(worlds.run(name)), np.random.default_rng(0)
    for program in {one["name"]: one for one in ours.manifest["programs"]}.values():
        inputs = []
        for one in program["inputs"]:
            shape = [16 if at == 0 else size if isinstance(size, int) else 7 for at, size in enumerate(one["shape"])]
            high = {"lengths": 6, "events": 5, "columns": 2}.get(one["name"], min(20, r.n_items))
            low = {"lengths": 1, "excluded": -1}.get(one["name"], 0)
            drawn = random.integers(low, high, shape) if one["dtype"] == "int32" else random.normal(size=shape)
            inputs.append(drawn.astype(one["dtype"]))
        for one, other in zip(ours(program["name"], *inputs), theirs(program["name"], *inputs), strict=True):
            assert one.dtype == other.dtype
            if one.dtype == np.int32:
                np.testing.assert_array_equal(other, one)
            else:
                largest = np.abs(one[np.isfinite(one)]).max()
                np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * largest)
    shared = [one["file"] for one in theirs.manifest["weights"].values()]
    assert all((theirs.folder / file).is_file() for file in shared)
    largest_program = max(file.stat().st_size for file in theirs.folder.glob("*.onnx"))
    assert largest_program < 250_000  # without weights


@TRANSLATED
@pytest.mark.slow
def test_the_example_of_onnx_needs_no_jax(directory: Directory, tmp_path: Path) -> None:
    outputs = []
    for form, banned in (("onnx", "jax"), ("stablehlo", "jaxrec")):
        code = (
            "import runpy, sys; sys.modules[sys.argv[1]] = None; sys.argv = sys.argv[2:]; "
            "sys.path[0] = sys.argv[0].rpartition('/')[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        command = [sys.executable, "-c", code, banned, str(directory("narm", form=form) / "load.py"), "sku-03"]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert ended.returncode == 0, ended.stderr
        outputs.append(ended.stdout)
    assert outputs[0] == outputs[1] and outputs[0].count("sku-") == 20


@TRANSLATED
@pytest.mark.slow
def test_an_operation_that_onnx_has_not_is_named(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import jax
    import jax.numpy as jnp

    kind = importlib.import_module("jaxrec.tasks.sessions.export")
    exports = kind.exports

    def strange(weights: Any, x: Any) -> Any:
        return (jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct((1,), jnp.float32), x),)

    def more(*arguments: Any) -> Any:
        made = exports(*arguments)
        value = Value("x", "a number", "float32", ("batch",))
        made.programs.append(Program("strange", strange, (value,), (Value("y", "the same"),), strange))
        return made

    monkeypatch.setattr(kind, "exports", more)
    out = tmp_path / "out"
    fails(capsys, "export", "--run", worlds.run("gru4rec"), "--format", "onnx", "--batch", 1, "--out", out,
          names="program 'strange': .*primitive 'pure_callback'.*; export it as stablehlo$")  # fmt: skip
    assert not list(tmp_path.iterdir())


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "message"), [
    (("--run", "none"), "none: no run here"),
    (("--batch", "0"), "--batch: '0': expected a whole number from 1 to 65536"),
    (("--platforms", "abacus"), r"--platforms: invalid choice: 'abacus' \(choose from"),
    (("--format", "exe"), "--format: invalid choice: 'exe'"),
    (("--format", "onnx --platforms cpu"), "--platforms: belongs to --format stablehlo"),
    (("--k", "41"), "k = 41: expected 1 to 40, the number of items"),
    (("--k", "0"), "k = 0: expected 1 to 40"),
])  # fmt: skip
def test_mistakes_are_one_line(
    worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str], message: str
) -> None:
    given = {"--run": str(worlds.run("gru4rec")), "--out": str(tmp_path / "out"), words[0]: words[1]}
    fails(capsys, "export", *" ".join(word for pair in given.items() for word in pair).split(" "), names=message)
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays(worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data, file = worlds.run("gru4rec"), worlds.data("sessions"), tmp_path / "file"
    file.touch()
    words = ("export", "--run", run, "--batch", 1, "--platforms", "cpu", "--out")
    fails(capsys, *words, data, "--overwrite", names="exists and is no export, so --overwrite leaves it alone")
    fails(capsys, *words, file / "x", names="a parent of it is a file")
    assert call(*words, tmp_path / "x") == 0
    fails(capsys, *words, tmp_path / "x", names="exists already; choose another --out or give --overwrite")
    before = (tmp_path / "x" / "manifest.json").read_text()
    assert call(*words, tmp_path / "x", "--overwrite", "--k", 5) == 0
    assert json.loads(before)["k"] == 20 and Programs(tmp_path / "x").manifest["k"] == 5


def test_a_blend_names_the_runs_that_can_be_exported(
    worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [worlds.run("gru4rec"), worlds.run("narm")]
    made = worlds.once("blend", lambda out: call("blend", "--runs", *runs, "--neighbours", "stan:k=50", "spop", "--run",
                                                 out))  # fmt: skip
    line = fails(capsys, "export", "--run", made, "--out", tmp_path / "x", names="a blend cannot be exported")
    assert all(run.name in line for run in runs) and "stan:k=50" in line
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_named(
    worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for form, package in (("stablehlo", "flatbuffers"), ("onnx", "jax2onnx")):
        monkeypatch.setitem(sys.modules, package, None)
        fails(capsys, "export", "--run", worlds.run("gru4rec"), "--out", tmp_path / "x", "--format", form,
              names=f"jaxrec needs {package}, which is not installed")  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_kind_of_problem_without_exports_is_named(
    worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jaxrec.tasks.sessions.export", None)
    fails(capsys, "export", "--run", worlds.run("gru4rec"), "--out", tmp_path / "x",
          names="its kind of problem exports nothing: there is no module jaxrec.tasks.sessions.export")  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_rules_are_left_out_with_a_note(worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.towers()
    assert call("export", "--run", run, "--out", tmp_path / "x", "--batch", 1, "--platforms", "cpu") == 0
    assert "rules (recommendation.rules) are not exported" in capsys.readouterr().err
    programs = Programs(tmp_path / "x")
    found = loader_of(programs).recommend(programs, None, {"skin": "dry"})
    answer = Recommender.load(run).recommend({"profile": {"skin": "dry"}}, 20, rules=False)
    np.testing.assert_allclose([score for _, score in found], answer.scores, rtol=1e-6)
