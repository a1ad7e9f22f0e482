"""One whole way through the commands and one through the README's code, and how a mistake ends."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from helpers import ROOT, SYNTHETIC, call, event_types, fails, open_sessions, run_process, write_config
from matplotlib.image import imread
from worlds import old_copy

from jaxrec.errors import UserError
from jaxrec.evaluate import evaluate
from jaxrec.train import train
from jaxrec.training.telemetry import Log

Capsys = pytest.CaptureFixture[str]


def test_from_nothing_to_recommendations(capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, run = tmp_path / "data", tmp_path / "checkpoints" / "small"
    assert call("prepare", "synthetic", "--out", data, *SYNTHETIC) == 0
    config = write_config(tmp_path / "small.yaml", data)
    capsys.readouterr()
    assert call("train", "--config", config, "--optimizer.learning_rate", "0.1") == 0  # to checkpoints/small
    out, err = capsys.readouterr()
    assert err == "" and re.search(r"epoch 2: loss \d\.\d+, [\d,]+ events/s, validation recall@20 0\.\d+", out)
    assert re.search(r"done; compile \d+\.\d s, train \d+\.\d s, evaluate \d+\.\d s, save \d+\.\d s", out)
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["learning_rate"] == 0.1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines if line["kind"] != "train"] == ["epoch", "validation"] * 2 + ["end"]
    first, last = (line for line in lines if line["kind"] == "epoch")
    assert last["loss"] < first["loss"] and last["events_per_s"] > 0
    assert min(imread(run / "learning_curve.png").shape[:2]) >= 250
    (events,) = (run / "tensorboard").iterdir()
    scalars = {(value.tag, one.step): value.simple_value for one in _events(events) for value in one.summary.value}
    for line in lines:
        for name in line.keys() - {"kind", "step", "epoch", "reason", "best_epoch"}:
            tag = f"{line['kind']}/{name}".replace("@", "_")  # tensorboardX allows no @
            assert scalars[tag, line["step"]] == pytest.approx(line[name], rel=1e-6)

    assert call("evaluate", "--run", run, "--k", 5, 20, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((run / "eval-test.json").read_text())
    assert (result["split"], result["checkpoint"], result["items"]) == ("test", "best", 100)
    assert result["targets"] == json.loads((data / "manifest.json").read_text())["counts"]["test"]["targets"]
    assert 0 < result["mrr@20"] < result["recall@20"] <= 1 and result["recall@5"] < result["recall@20"]
    assert result["recall@20"] > 0.7 * result["optimum"]["recall@20"]

    shutil.rmtree(data)
    assert call("recommend", "--run", run, "--items", 7, 4711, 3, "--k", 6, "--json") == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert err.splitlines() == ["jaxrec: note: items: 1 unknown item left out: 4711"]
    assert len(printed["recommendations"]) == 6 and printed["unknown"] == ["4711"] and not printed["popularity"]
    assert call("recommend", "--run", run, "--items", 7, 3, "--k", 6) == 0
    header, *table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["rank", "item", "score"] and [row[0] for row in table] == list("123456")
    assert [int(row[1]) for row in table] == [row["item"] for row in printed["recommendations"]]


def _events(file: Path) -> Iterator[Any]:
    """Of a TFRecord file: a length and its checksum, the record and its checksum."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield event_types().Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_tensorboard_keeps_what_was_logged_at_the_checkpoint(tmp_path: Path) -> None:
    Log(tmp_path, 0, step=376).close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    start = event_types().SessionLog.START
    starts = [one.step for one in _events(file) if one.HasField("session_log") and one.session_log.status == start]
    assert starts == [377], "TensorBoard hides events from this step on"


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path, run: Path, capsys: Capsys) -> None:
    """The one place that tests it in a process."""
    status, out, err = run_process("evaluate", "--run", tmp_path / "none")
    advice = "no run here (no config.yaml); train one with python -m jaxrec.train"
    assert (status, out, err) == (2, "", f"jaxrec: error: {tmp_path / 'none'}: {advice}\n")
    fails(capsys, "train", names="--config.*see 'python -m jaxrec.train --help'")
    fails(capsys, "evaluate", "--run", run, "--data", tmp_path, names="no data set here")


def test_the_readmes_code_runs_and_mistakes_are_one_line() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = dedent(text[text.index("    from jaxrec import ") :].partition("\n\n#")[0])
    names: dict[str, Any] = {}
    with old_copy(), redirect_stdout(io.StringIO()) as printed:
        Path("checkpoints").mkdir()
        for name, old in {"merrec": "merrec", "clicks": "autoint", "two_tower_personas": "two_tower"}.items():
            Path("checkpoints", name).symlink_to(Path("runs", old).resolve())
        write_config(Path("configs/gru4rec_synthetic.yaml"), Path("data/synthetic"))
        assert call("prepare", "synthetic", "--out", "data/synthetic", *SYNTHETIC) == 0
        listing = json.loads(Path("events.json").read_text())[0]["item"]
        exec(code.replace("1578308", str(listing)), names)
        optimum = sum(open_sessions("data/synthetic").manifest["optimum"]["rank_probability"][:20])
        assert 0.5 * optimum < float(printed.getvalue().split()[-1]) <= 1.0
        assert names["config"].training.epochs == 2 and len(names["answer"].items) == 10
        assert len(names["listings"].items) == len(names["ads"].items) == len(names["products"].items) == 3

        given = evaluate("checkpoints/mine", "test", ks=[5])
        assert given["recall@5"] == evaluate(Path("checkpoints/mine"), ks=[5], data="data/synthetic")["recall@5"]
        train("checkpoints/mine/config.yaml", "checkpoints/mine", resume=True)  # to its end already

        with pytest.raises(UserError, match=r"^the run directory: .* holds a NUL character"):
            train("configs/gru4rec_synthetic.yaml", "a\0b")
        with pytest.raises(UserError, match=r"^split: found 'tets' \(did you mean 'test'\?\)"):
            evaluate("checkpoints/mine", "tets")


def test_default_cutoffs_are_below_a_small_catalogue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{s},{(s + i) % 12},{1_700_000_000 + 60 * s + i}" for s in range(80) for i in range(4)]
    (tmp_path / "a.csv").write_text("\n".join(["visit,sku,at", *lines]))
    words = "--raw", tmp_path / "a.csv", "--session", "visit", "--item", "sku", "--time", "at", "--test-days", 0
    assert call("prepare", "events", *words, "--out", tmp_path / "d") == 0
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{path: {tmp_path / 'd'}, validation_fraction: 0.2}}\nmodel: {{layers: [4]}}\n"
                      "loss: {n_sample: 4}\ntraining: {epochs: 1, batch_size: 16}\n")  # fmt: skip
    assert call("train", "--config", config, "--run", tmp_path / "r") == 0
    notes = capsys.readouterr().err
    assert "evaluation.k is (5, 10) instead of (5, 10, 20): " in notes
    assert "training.metric is recall@11 instead of recall@20: " in notes
    given = "train", "--config", config, "--run", tmp_path / "other", "--evaluation.k", 20
    fails(capsys, *given, names="20 is more than the 12 items")
    evaluated = "evaluate", "--run", tmp_path / "r", "--split", "validation"
    assert call(*evaluated) == 0 and "@10" in capsys.readouterr().out
    fails(capsys, *evaluated, "--k", 13, names="13 is more than the 12 items")
    assert call("recommend", "--run", tmp_path / "r", "--items", 3) == 0
