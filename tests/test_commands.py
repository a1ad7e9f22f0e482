"""The commands as a user meets them: --help, one whole way through as processes, and every listed bad input."""

from __future__ import annotations

import errno
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import SYNTHETIC, call, event_types, fails, run_process, write_config, write_dataset

from jaxrec.data.store import sealed
from jaxrec.training import checkpoint
from jaxrec.training.telemetry import read_log

Capsys = pytest.CaptureFixture[str]


# ---- as processes ----------------------------------------------------------------------------------------------------

HELP = {
    "prepare": ("synthetic", "diginetica"),
    "train": ("--config", "--resume", "--section.field", "two_tower", "--help --model.name gru4rec"),
    "evaluate": ("--run", "--split", "--k", "eval-<split>.json"),
    "plots": ("curves", "several runs"),
    "recommend": ("--items", "--similar-to", "--json", "oldest first"),
}


@pytest.mark.parametrize("name", HELP)
def test_help(name: str, capsys: Capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        call(name, "--help")
    out, err = capsys.readouterr()
    assert (caught.value.code, err) == (0, "")
    assert out.startswith(f"usage: python -m jaxrec.{name}")
    for word in HELP[name]:
        assert word in out


def test_from_nothing_to_recommendations(capsys: Capsys, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "checkpoints" / "small"
    assert run_process("prepare", "synthetic", "--out", data, *SYNTHETIC)[0] == 0
    config = write_config(tmp_path / "small.yaml", data)
    words = ["--config", config, "--optimizer.learning_rate", "0.1"]  # the run goes to checkpoints/small
    status, out, err = run_process("train", *words, cwd=tmp_path)
    assert (status, err) == (0, "")
    assert re.search(r"epoch 2: loss \d\.\d+, [\d,]+ events/s, validation recall@20 0\.\d+", out)
    assert re.search(r"done; compile \d+\.\d s, train \d+\.\d s, evaluate \d+\.\d s, save \d+\.\d s", out)

    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["learning_rate"] == 0.1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines if line["kind"] != "train"] == ["epoch", "validation"] * 2 + ["end"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert epochs[1]["loss"] < epochs[0]["loss"] and all(line["events_per_s"] > 0 for line in epochs)
    assert _png_size(run / "learning_curve.png") >= (400, 250)
    (events,) = (run / "tensorboard").iterdir()
    scalars = _scalars(events)
    for line in lines:
        for name, value in line.items():
            if name not in ("kind", "step", "epoch", "reason", "best_epoch"):
                tag = f"{line['kind']}/{name}".replace("@", "_")  # tensorboardX allows no @
                assert scalars[tag, line["step"]] == pytest.approx(value, rel=1e-6)

    status, out, err = run_process("evaluate", "--run", run, "--k", 5, 20, "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result == json.loads((run / "eval-test.json").read_text())
    assert (result["split"], result["checkpoint"], result["items"]) == ("test", "best", 100)
    assert result["targets"] == json.loads((data / "manifest.json").read_text())["counts"]["test"]["targets"]
    assert 0 < result["mrr@20"] < result["recall@20"] <= 1 and result["recall@5"] < result["recall@20"]
    assert result["recall@20"] > 0.7 * result["optimum"]["recall@20"]

    shutil.rmtree(data)
    status, out, err = run_process("recommend", "--run", run, "--items", 7, 4711, 3, "--k", 6, "--json")
    assert status == 0 and err.splitlines() == ["jaxrec: note: 1 unknown item left out: 4711"]
    printed = json.loads(out)
    assert len(printed["recommendations"]) == 6 and printed["unknown"] == ["4711"] and not printed["popularity"]
    capsys.readouterr()
    assert call("recommend", "--run", run, "--items", 7, 3, "--k", 6) == 0
    out, err = capsys.readouterr()
    assert err == ""
    header, *table = [line.split() for line in out.splitlines()]
    assert header == ["rank", "item", "score"]
    assert [row[0] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert [int(row[1]) for row in table] == [row["item"] for row in printed["recommendations"]]


def test_a_mistake_in_a_process_is_one_line_and_status_2(tmp_path: Path) -> None:
    status, out, err = run_process("evaluate", "--run", tmp_path / "none")
    assert (status, out) == (2, "")
    advice = "no run here (no config.yaml); train one with python -m jaxrec.train"
    assert err == f"jaxrec: error: {tmp_path / 'none'}: {advice}\n"


def _png_size(file: Path) -> tuple[int, int]:
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data.endswith(b"IEND\xaeB`\x82") and len(data) > 5000
    return struct.unpack(">II", data[16:24])


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> int:
    crc = _crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _records(file: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, their masked CRC-32C checked."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        assert struct.unpack("<I", data[at + 8 : at + 12]) == (_masked(data[at : at + 8]),)
        record = data[at + 12 : at + 12 + length]
        assert struct.unpack("<I", data[at + 12 + length : at + 16 + length]) == (_masked(record),)
        at += 16 + length
        yield record


def _scalars(file: Path) -> dict[tuple[str, int], float]:
    """Values by (tag, step)."""
    kinds = event_types()
    events = [kinds.Event.FromString(record) for record in _records(file)]
    assert events[0].file_version == "brain.Event:2"
    return {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}


# ---- configurations --------------------------------------------------------------------------------------------------

OVERRIDES = [
    (["--training.epoch", "3"], r"error: --training\.epoch: no such field \(did you mean --training\.epochs\?\)"),
    (["--training.epochs", "0"], r"error: --training\.epochs: found 0; .*greater than or equal to 1"),
    (["--model.embedding", "constraint"], r"model\.embedding: found 'constraint'.*did you mean 'constrained'"),
    (["--optimizer.learning_rate", "-1"], r"optimizer\.learning_rate: found -1"),
    (["--optimizer.learning_rate", "fast"], r"optimizer\.learning_rate: found 'fast'"),
    (["--data.validation_fraction", "1"], r"data\.validation_fraction: found 1; .*less than 1"),
    (["--training.epochs"], r"--training\.epochs: a value is missing"),
    (["--training.epochs", "2", "3"], r"--training\.epochs: one value expected, found '2 3'"),
    (["stray"], r"'stray': expected --section\.field value"),
    (["--training.metric", "recall"], r"training\.metric: found 'recall'"),
    (["--loss.name", "bpr", "--loss.logq", "1"], r"loss\.logq: found 1, but it belongs to cross_entropy"),
    (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
    (["--training.early_stopping", "2", "--data.validation_fraction", "0"], r"early_stopping: needs validation data"),
]

FILES = {
    "data: {path: x}\nmodell: {}\n": r"modell: no such field.*did you mean 'model'",
    "data: {path: x}\ntraining: {epochz: 3}\n": r"training\.epochz: no such field.*did you mean 'training\.epochs'",
    "model: {layers: [10]}\n": r"data: missing",
    "data: {path: x\n": r"line \d+: not YAML",
    "data:\n\t- path\n": r"line 2: not YAML",
    "just words\n": "expected sections with fields",
    "": "expected sections with fields",
    "data: {path: x}\nmodel: 3\n": "expected sections with fields",
    "\x00\x01": "not YAML|cannot read",
}


@pytest.mark.parametrize(("words", "names"), OVERRIDES, ids=[" ".join(words) for words, _ in OVERRIDES])
def test_wrong_overrides(capsys: Capsys, config_file: Path, tmp_path: Path, words: list[str], names: str) -> None:
    fails(capsys, "train", "--config", config_file, "--run", tmp_path / "run", *words, names=names)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", FILES)
def test_wrong_configuration_files(capsys: Capsys, tmp_path: Path, text: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    line = fails(capsys, "train", "--config", tmp_path / "wrong.yaml", "--run", tmp_path / "run", names=FILES[text])
    assert str(tmp_path / "wrong.yaml") in line
    assert not (tmp_path / "run").exists()


def test_unreadable_configuration_files(capsys: Capsys, tmp_path: Path) -> None:
    fails(capsys, "train", "--config", tmp_path / "none.yaml", names="none.yaml: cannot read the config.*No such file")
    fails(capsys, "train", "--config", tmp_path, names="cannot read the configuration .Is a directory")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    fails(capsys, "train", "--config", tmp_path / "binary.yaml", names="binary.yaml: cannot read.*not UTF-8")
    fails(capsys, "train", names="--config.*see 'python -m jaxrec.train --help'")


# ---- data sets -------------------------------------------------------------------------------------------------------


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
    "missing": (shutil.rmtree, r"data: no data set here .no manifest\.json.*jaxrec\.prepare"),
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
def test_damaged_data_sets(capsys: Capsys, dataset: Path, tmp_path: Path, name: str) -> None:
    damage, names = DATASETS[name]
    data = shutil.copytree(dataset, tmp_path / "data")
    damage(data)
    config = write_config(tmp_path / "c.yaml", data)
    line = fails(capsys, "train", "--config", config, "--run", tmp_path / "run", names=names)
    assert str(data) in line
    assert not (tmp_path / "run").exists()


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_a_run_that_exists(capsys: Capsys, config_file: Path, copy: Path, tmp_path: Path) -> None:
    before = sorted(copy.rglob("*"))
    exists = "run: a run is here already; --resume continues it, --overwrite deletes it"
    fails(capsys, "train", "--config", config_file, "--run", copy, names=exists)
    assert sorted(copy.rglob("*")) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for option in ([], ["--overwrite"], ["--resume"]):
        words = ["--config", config_file, "--run", tmp_path / "mine", *option]
        fails(capsys, "train", *words, names="mine: exists and is no run; choose another --run")
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    assert call("train", "--config", config_file, "--run", copy, "--overwrite", "--training.epochs", 1) == 0
    assert json.loads((copy / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 1


def test_resuming_something_else(capsys: Capsys, config_file: Path, copy: Path, dataset: Path, tmp_path: Path) -> None:
    words = ["--config", config_file, "--run", copy, "--resume", "--optimizer.learning_rate", "0.2"]
    changed = r"cannot resume with a changed configuration \(optimizer\.learning_rate: was 0\.05, now 0\.2\)"
    fails(capsys, "train", *words, names=changed)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    other = tmp_path / "other"
    assert call("prepare", "synthetic", "--out", other, *SYNTHETIC, "--seed", 1) == 0
    config["data"]["path"] = str(other)
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["--config", copy / "config.yaml", "--run", copy, "--resume"]
    fails(capsys, "train", *words, names="other: not the data set that .*prepare that one again")
    fails(capsys, "evaluate", "--run", copy, names="other: not the data set that .* --data")
    assert call("evaluate", "--run", copy, "--data", dataset) == 0


@pytest.mark.parametrize("name", ["evaluate", "recommend"])
def test_runs_that_cannot_be_used(capsys: Capsys, copy: Path, tmp_path: Path, name: str) -> None:
    more = ["--items", "3"] if name == "recommend" else []
    fails(capsys, name, "--run", tmp_path, *more, names=r"no run here \(no config\.yaml\)")
    shutil.move(copy / "state", tmp_path / "state")
    fails(capsys, name, "--run", copy, *more, names="run: no checkpoint here yet; train it")
    (copy / "state" / "latest" / "40.orbax-checkpoint-tmp").mkdir(parents=True)
    fails(capsys, name, "--run", copy, *more, names="run: no checkpoint here yet; train it")
    (copy / "dataset" / "manifest.json").unlink()
    fails(capsys, name, "--run", copy, *more, names=r"manifest\.json: missing; the run is damaged")
    assert not list(copy.glob("eval-*"))


def test_a_damaged_vocabulary(capsys: Capsys, copy: Path) -> None:
    _truncate(copy / "dataset" / "items.parquet")
    fails(capsys, "recommend", "--run", copy, "--items", 3, names=r"items\.parquet: missing or damaged; copy")


def test_evaluating_what_is_not_there(capsys: Capsys, copy: Path, dataset: Path, tmp_path: Path) -> None:
    fails(capsys, "evaluate", "--run", copy, "--k", 101, names="--k 101: larger than the catalogue of 100 items")
    fails(capsys, "evaluate", "--run", copy, "--k", 0, names="--k 0: expected a whole number from 1")
    fails(capsys, "evaluate", "--run", copy, "--split", "tset", names="--split.*'tset'.*'test'")
    fails(capsys, "evaluate", "--run", copy, "--data", tmp_path, names="no data set here")
    assert not list(copy.glob("eval-*"))
    rng = np.random.default_rng(0)
    data = write_dataset(tmp_path / "data", rng.integers(0, 9, (60, 4)), test_days=0)
    config = write_config(
        tmp_path / "c.yaml", data, data={"validation_fraction": 0}, training={"epochs": 1}, evaluation={"k": [5]}
    )
    assert call("train", "--config", config, "--run", tmp_path / "empty") == 0
    for split in ("test", "validation"):
        fails(capsys, "evaluate", "--run", tmp_path / "empty", "--split", split, names=f"the {split} split is empty")


def test_recommending_for_nothing(capsys: Capsys, run: Path) -> None:
    for words in ([], ["--items"]):
        fails(
            capsys,
            "recommend",
            "--run",
            run,
            *words,
            names=r"\(--purchased\): nothing is given to recommend for",
        )
    fails(capsys, "recommend", "--run", run, "--items", 3, "--k", 101, names="k = 101: expected 1 to 100")
    fails(capsys, "recommend", "--run", run, "--items", 3, "--k", 0, names="k = 0: expected 1 to 100")
    fails(capsys, "recommend", "--run", run, "--items", 3, "--k", "x", names="--k: invalid int value: 'x'")
    fails(capsys, "recommend", "--run", run, "--similar-to", 4711, names="item 4711: unknown to this run's vocabulary")
    fails(capsys, "recommend", "--run", run, "--items", 3, "--candidates", 4711, names="only: none of them")


def test_unknown_items_are_reported_and_popularity_says_so(capsys: Capsys, run: Path) -> None:
    capsys.readouterr()
    assert call("recommend", "--run", run, "--items", 4711, "socks", "--k", 3, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "jaxrec: note: 2 unknown items left out: 4711, socks",
        "jaxrec: note: nothing is known, so the most popular items are recommended",
    ]
    printed = json.loads(captured.out)
    assert printed["popularity"] and printed["unknown"] == ["4711", "socks"] and len(printed["recommendations"]) == 3
    assert call("recommend", "--run", run, "--similar-to", 7, "--k", 3, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == "" and len(json.loads(captured.out)["recommendations"]) == 3


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_no_room_for_a_checkpoint(
    capsys: Capsys, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    names = r"run/state: no disk space: a checkpoint takes 1\.\d MB, 0\.1 MB are left; free some.*--resume"
    fails(capsys, "train", "--config", config_file, "--run", tmp_path / "run", names=names)
    assert not list((tmp_path / "run").glob("state/*/*"))
    monkeypatch.undo()
    assert call("train", "--config", config_file, "--run", tmp_path / "run", "--resume") == 0


@pytest.mark.parametrize("target", ["shutil.copyfile", "os.fsync"])
def test_a_full_disk_leaves_no_run_behind(
    capsys: Capsys, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(target, full)
    fails(capsys, "train", "--config", config_file, "--run", tmp_path / "run", names="No space left on device")
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_made(capsys: Capsys, config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file/run", "file/deep/run"):
        fails(capsys, "train", "--config", config_file, "--run", tmp_path / place, names="a parent of it is a file")
    fails(capsys, "train", "--config", config_file, "--run", tmp_path / "file", names="file: exists and is no run")


def test_a_loss_that_is_not_finite(capsys: Capsys, config_file: Path, tmp_path: Path) -> None:
    words = ["--optimizer.name", "sgd", "--optimizer.learning_rate", "1e37", "--loss.name", "bpr"]
    names = r"the loss is not finite at step \d+ \(learning rate 1e\+37\); try a third of --optimizer\.learning_rate"
    fails(capsys, "train", "--config", config_file, "--run", tmp_path / "run", *words, names=names)
    assert not list((tmp_path / "run" / "state").glob("*/*")), "parameters that are not finite were saved"


def test_training_without_validation_says_so(capsys: Capsys, config_file: Path, tmp_path: Path) -> None:
    words = ("train", "--config", config_file, "--run", tmp_path / "run", "--training.epochs", 1)
    assert call(*words, "--data.validation_fraction", 0) == 0
    assert "jaxrec: note: no validation data, so nothing tells when more epochs do harm" in capsys.readouterr().err
    assert call(*words, "--overwrite") == 0
    assert "note" not in capsys.readouterr().err, "the best epoch is the last one"


@pytest.mark.parametrize("patience", [0, 1, 9])
def test_training_says_that_validation_got_worse(
    capsys: Capsys, config_file: Path, tmp_path: Path, patience: int
) -> None:
    words = ["--optimizer.name", "adam", "--optimizer.learning_rate", 1, "--training.epochs", 3]
    words += ["--training.early_stopping", patience]
    assert call("train", "--config", config_file, "--run", tmp_path / "run", *words) == 0
    validations = [line["recall@20"] for line in read_log(tmp_path / "run") if line["kind"] == "validation"]
    best = int(np.argmax(validations))
    assert best < len(validations) - 1, "the learning rate was to do harm"
    note = (
        f"validation recall@20 was best after epoch {best + 1} ({validations[best]:.4f}) and is {validations[-1]:.4f} "
        f"after epoch {len(validations)}; the best is what evaluates and recommends"
    )
    err = capsys.readouterr().err
    assert note in err
    assert ("training.early_stopping would save" in err) == (patience == 0)
