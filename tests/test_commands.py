"""The commands as a user meets them: --help, one whole way through as processes, and every listed bad input."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import SYNTHETIC, call, event_types, fails, run_process, write_config, write_dataset

Capsys = pytest.CaptureFixture[str]


# ---- as processes ----------------------------------------------------------------------------------------------------


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


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path, capsys: Capsys) -> None:
    """The one place that tests it, in a process and within this one."""
    status, out, err = run_process("evaluate", "--run", tmp_path / "none")
    assert (status, out) == (2, "")
    advice = "no run here (no config.yaml); train one with python -m jaxrec.train"
    assert err == f"jaxrec: error: {tmp_path / 'none'}: {advice}\n"
    fails(capsys, "train", names="--config.*see 'python -m jaxrec.train --help'")
    fails(capsys, "train", "--config", tmp_path / "none.yaml", names="none.yaml: cannot read the configuration")


def _png_size(file: Path) -> tuple[int, int]:
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data.endswith(b"IEND\xaeB`\x82") and len(data) > 5000
    return struct.unpack(">II", data[16:24])


def _records(file: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: a length and its checksum, the record and its checksum."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def _scalars(file: Path) -> dict[tuple[str, int], float]:
    """Values by (tag, step)."""
    kinds = event_types()
    events = [kinds.Event.FromString(record) for record in _records(file)]
    assert events[0].file_version == "brain.Event:2"
    return {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}


def test_evaluating_what_is_not_there(capsys: Capsys, run: Path, tmp_path: Path) -> None:
    fails(capsys, "evaluate", "--run", run, "--k", 101, names="--k 101: larger than the catalogue of 100 items")
    fails(capsys, "evaluate", "--run", run, "--k", 0, names="--k 0: expected a whole number from 1")
    fails(capsys, "evaluate", "--run", run, "--split", "tset", names="--split.*'tset'.*'test'")
    fails(capsys, "evaluate", "--run", run, "--data", tmp_path, names="no data set here")
    rng = np.random.default_rng(0)
    data = write_dataset(tmp_path / "data", rng.integers(0, 9, (60, 4)), test_days=0)
    config = write_config(
        tmp_path / "c.yaml", data, data={"validation_fraction": 0}, training={"epochs": 1}, evaluation={"k": [5]}
    )
    assert call("train", "--config", config, "--run", tmp_path / "empty") == 0
    for split in ("test", "validation"):
        fails(capsys, "evaluate", "--run", tmp_path / "empty", "--split", split, names=f"the {split} split is empty")
