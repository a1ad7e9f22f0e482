"""Run directories: what is refused, overwritten, resumed and trained for longer; full disks; evaluations."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import SYNTHETIC, assert_same_run, call, write_config
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.cli.lock import owned
from jaxrec.errors import UserError
from jaxrec.evaluate import evaluate
from jaxrec.train import train
from jaxrec.training import checkpoint
from jaxrec.training.telemetry import read_log

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval-*")))


@pytest.fixture
def config(tmp_path: Path, dataset: Path) -> Path:
    """That of ``run``, whose program is compiled already, for one epoch."""
    return write_config(tmp_path / "config.yaml", dataset, training={"epochs": 1})


def refused(names: str, config: Path, run: Path, *words: str, **how: Any) -> None:
    with pytest.raises(UserError, match=names):
        train(configuration.load(config, words), run, **how)


def test_a_run_is_kept_and_nothing_else_is_overwritten(config_file: Path, copy: Path, tmp_path: Path) -> None:
    before = sorted(copy.rglob("*"))
    refused("run: a run is here already; --resume continues it, --overwrite deletes it", config_file, copy)
    assert sorted(copy.rglob("*")) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for how in ({}, {"overwrite": True}, {"resume": True}):
        refused("mine: exists and is no run; choose another --run", config_file, tmp_path / "mine", **how)
    refused("a parent of it is a file", config_file, tmp_path / "file" / "deep" / "run")
    (copy / "thesis.tex").write_text("three years")
    refused(r"thesis\.tex is not of a run", config_file, copy, overwrite=True)
    (copy / "thesis.tex").unlink()
    with owned(copy, "trains this run", "x"):
        refused("another process .* trains this run", config_file, copy, overwrite=True)
    shutil.copytree(copy / "state", tmp_path / ".run.deleted" / "state")  # of a process that was killed
    train(configuration.load(config_file, ["--training.epochs", "1"]), copy, overwrite=True)
    assert read_log(copy)[-1]["epoch"] == 1 and not (tmp_path / ".run.deleted").exists()


def test_resuming_something_else(config_file: Path, copy: Path, dataset: Path, tmp_path: Path) -> None:
    changed = r"cannot resume with a changed configuration \(optimizer\.learning_rate: was 0\.05, now 0\.2\)"
    refused(changed, config_file, copy, "--optimizer.learning_rate", "0.2", resume=True)
    other, file = tmp_path / "other", copy / "config.yaml"
    assert call("prepare", "synthetic", "--out", other, *SYNTHETIC, "--seed", 1) == 0
    file.write_text(file.read_text().replace(str(dataset), str(other)))
    refused("other: not the data set that .*prepare that again", file, copy, resume=True)
    with pytest.raises(UserError, match=r"other: not the data set that .* --data"):
        evaluate(copy)
    assert evaluate(copy, data=dataset)["items"] == 100
    (copy / "dataset" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json: missing; the run is damaged"):
        evaluate(copy)


def test_a_block_of_scores_that_an_earlier_version_wrote_down_is_no_change(
    worlds: Worlds, tmp_path: Path, capsys: Capsys
) -> None:
    """Its default was 64 MiB; now it is the platform's. Another one that is asked for is a change."""
    config, run = worlds.config("bert4rec"), Path(shutil.copytree(worlds.run("bert4rec"), tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    assert "\n  memory: null\n" in text
    (run / "config.yaml").write_text(text.replace("\n  memory: null\n", "\n  memory: 64\n"))
    train(config, run, resume=True)
    assert "already trained to its end" in capsys.readouterr().out
    refused(r"loss\.memory: was 64, now 32", config, run, "--loss.memory", "32", resume=True)


def test_more_epochs_are_what_they_would_have_been(tmp_path: Path, config: Path, capsys: Capsys) -> None:
    """Of a run that is called anything, and may be moved."""
    straight, longer = tmp_path / "straight", tmp_path / "layers=[16] a*b?'\" \\slash %41 #ü\nline" / "run"
    more = ["--training.epochs", "2"]
    train(configuration.load(config, more), straight)
    train(config, longer)
    train(configuration.load(longer / "config.yaml", more), longer, resume=True)
    assert_same_run(straight, longer)
    assert (longer / "config.yaml").read_text() == (straight / "config.yaml").read_text()
    assert [line["kind"] for line in read_log(longer)].count("end") == 1
    refused("was 2, now 1; a resumed run cannot train for fewer", config, longer, resume=True)
    words = ["--optimizer.schedule", "linear", "--training.epochs", "9"]
    refused("changed configuration .optimizer.schedule: was constant, now linear", config, longer, *words, resume=True)
    capsys.readouterr()
    train(longer / "config.yaml", longer, resume=True)
    assert "already trained to its end" in capsys.readouterr().out
    shutil.move(longer, tmp_path / "moved")
    assert evaluate(tmp_path / "moved", ks=[5])["recall@5"] > 0.2


def test_an_average_of_epochs_is_planned_for_their_number(tmp_path: Path, config: Path, capsys: Capsys) -> None:
    """More epochs would average others; and where training stops before the last ones, it says that none are."""
    planned = configuration.load(config, ["--training.average_epochs", "1"])
    train(planned, tmp_path / "run")
    words = ["--training.average_epochs", "1", "--training.epochs", "2"]
    refused("was 1, now 2; .* only where .* training.average_epochs 0", config, tmp_path / "run", *words, resume=True)
    capsys.readouterr()
    train(planned, tmp_path / "run", resume=True)
    assert "already trained to its end; for more epochs train another --run" in capsys.readouterr().out
    train(configuration.load(config, ["--training.average_epochs", "1", "--training.epochs", "3"]), tmp_path / "early",
          report=lambda epoch, metrics: epoch == 2)  # fmt: skip
    assert "the last 1 of 3 epochs were not begun, so no weights are averaged" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["shutil.copyfile", "os.fsync"])
def test_a_full_disk_leaves_no_run_behind(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(target, full)
        with pytest.raises(OSError, match="No space left on device"):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    refused(r"run/state: no disk space: a checkpoint takes 1\.\d MB, 0\.1 MB are left", config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("state/*/*"))


def test_a_loss_that_is_not_finite_is_not_saved(config: Path, tmp_path: Path) -> None:
    words = ["--optimizer.name", "sgd", "--optimizer.learning_rate", "1e37", "--loss.name", "bpr"]
    refused(r"the loss is not finite at step \d+ \(learning rate 1e\+37\); try", config, tmp_path / "run", *words)
    assert not list((tmp_path / "run" / "state").glob("*/*"))


def test_cutoffs_beyond_the_catalogue_are_refused(config: Path, tmp_path: Path) -> None:
    for words in (["--evaluation.k", "101"], ["--training.metric", "mrr@101"]):
        refused("101 is more than the 100 items of", config, tmp_path / "run", *words)


# ---- evaluations that a run keeps ------------------------------------------------------------------------------------


def kept(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "eval-test.json").read_text())
    return found


def test_an_evaluation_adds_to_the_one_before(copy: Path, capsys: Capsys) -> None:
    """Other cut-offs and baselines stay; a checkpoint of later is another result, and the first is not lost."""
    assert call("evaluate", "--run", copy, "--k", 20, "--baselines", "pop") == 0
    first = kept(copy)
    assert call("evaluate", "--run", copy, "--k", 5, "--baselines", "spop") == 0
    both = kept(copy)
    changing = {"seconds": 0, "baselines": 0, "optimum": 0}
    assert {**first, **both, **changing} == {**both, **changing}
    assert "recall@5" in both and "coverage@20" in both and both["optimum"].keys() > first["optimum"].keys()
    assert both["baselines"].keys() == {"pop", "spop"} and "others" not in both
    assert both["baselines"]["pop"] == first["baselines"]["pop"]
    (place,) = (copy / "state" / "best").glob("[0-9]*")
    place.rename(place.with_name("9" + place.name))  # the same under a later step: a run that was trained on
    assert call("evaluate", "--run", copy, "--k", 5) == 0
    now = kept(copy)
    assert now["others"] == [both] and "baselines" not in now and "recall@20" not in now
    assert now["recall@5"] == both["recall@5"] and now["question"]["step"] != both["question"]["step"]
    (copy / "eval-test.json").write_text('{"split": "te')
    assert call("evaluate", "--run", copy, "--k", 5) == 0
    assert kept(copy)["recall@5"] == now["recall@5"] and "eval-test.json: damaged" in capsys.readouterr().err


def test_a_run_that_cannot_be_written_to(copy: Path, capsys: Capsys) -> None:
    """A directory in the file's place, for root may write anywhere else."""
    (copy / "eval-test.json").mkdir()
    before = sorted(copy.iterdir())
    assert call("evaluate", "--run", copy, "--k", 5, "--json") == 0
    out, err = capsys.readouterr()
    assert "recall@5" in json.loads(out)
    assert f"{copy / 'eval-test.json'}: could not be kept (Is a directory)" in err and len(err.splitlines()) == 1
    assert sorted(copy.iterdir()) == before
