"""A model, a loss, a source, a task and an optimizer of the user's, outside jaxrec, found by their dotted paths."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT, call, fails, write_config

from jaxrec import Recommender
from jaxrec import config as configuration
from jaxrec.tasks.programs import Programs
from jaxrec.tasks.sessions import load
from jaxrec.training.telemetry import read_log

Capsys = pytest.CaptureFixture[str]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN = {
    "model": {"name": "shop.last_mean", "last": 2, "window": 8, "layers": None},
    "loss": {"name": "shop.hinge", "margin": 0.5},
}
SOURCE = """
from argparse import ArgumentParser, Namespace
from jaxrec.sources import synthetic

HELP, KIND, DEFAULTS = "clicks of our shop", "sessions", {"min_item_support": 1, "test_days": 3}

def add_arguments(parser):
    parser.add_argument("--visits", type=int, default=300)

def read(connection, arguments):
    options = ArgumentParser()
    synthetic.add_arguments(options)
    given = options.parse_args(["--items", "20", "--sessions", str(arguments.visits)])
    return synthetic.read(connection, Namespace(**vars(arguments) | vars(given)))
"""
FILES = {
    "log.py": SOURCE,
    "broken.py": "1 / 0\n",
    "visits/__init__.py": 'from jaxrec.tasks.sessions import *\nREADS = "sessions"\n',
    "visits/task.py": "from jaxrec.tasks.sessions.task import make\n",
    "mine.py": "from typing import ClassVar\nfrom shop import last_mean\nModel = last_mean.Model\n"
    'class Config(last_mean.Config):\n    task: ClassVar[str] = "shop.visits"\n',
    "steps.py": "from jaxrec.config import OptimizerConfig\n"
    "class Optimizer(OptimizerConfig):\n    def parts(self, scale): return [scale]\n",
}


def forget() -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] == "shop"]:
        del sys.modules[module]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with the package ``shop``, of the modules that the README shows and those above."""
    (tmp_path / "shop" / "visits").mkdir(parents=True)
    for name in ("shop/last_mean.py", "shop/hinge.py"):
        found = re.search(rf"^    # {name}\n((?:    (?!# shop).*\n)+)", README, re.MULTILINE)
        assert found, name
        (tmp_path / name).write_text(textwrap.dedent(found[1]), encoding="utf-8")
    for name, text in FILES.items():
        (tmp_path / "shop" / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget()


def test_a_model_and_a_loss_of_ones_own(
    package: Path, dataset: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run = write_config(package / "own.yaml", dataset, **OWN), package / "run"
    assert call("train", "--config", file, "--run", run, "--training.epochs", 3) == 0
    capsys.readouterr()
    assert call("evaluate", "--run", run, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["recall@20"] > 1.5 * result["chance"]["recall@20"], "it learns"
    assert call("recommend", "--run", run, "--items", 1, 2, "--k", 3, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert call("export", "--run", run, "--out", package / "exported", "--batch", 1) == 0
    programs, r = Programs(package / "exported"), Recommender.load(run)
    same = load.recommend(programs, [[1, 2]])[0], r.recommend({"items": [1, 2]}).items
    assert same[0] == [(one.id, one.score) for one in same[1]] and len(same[0]) == 20
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(package)])
    forget()
    message = r"config\.yaml: model\.name: shop\.last_mean cannot be imported \(ModuleNotFoundError: No module named"
    fails(capsys, "recommend", "--run", run, "--items", 1, names=message)


def test_its_fields_are_shown_and_what_is_wrong_with_it_is_one_line(package: Path, capsys: Capsys) -> None:
    text = configuration.field_help(None, ["--model.name", "shop.last_mean", "--loss.name", "shop.hinge"])
    assert "--model.last [3]" in text and "--loss.margin [1.0]" in text and "--model.window [20]" in text
    (package / "c.yaml").write_text("data:\n  path: none\n", encoding="utf-8")
    for words, message in {
        "--model.name shop.hinge": r"model\.name: shop\.hinge has no Config, a subclass of ModelConfig",
        "--model.name shop.broken": r"model\.name: shop\.broken cannot be imported \(ZeroDivisionError: div",
        "--model.name autoint --loss.name shop.hinge": r"loss\.name: found shop\.hinge, which is no Binary",
        "--model.name shop.last_mean --model.heads 2": r"model\.heads: found 2, but another model",
    }.items():
        fails(capsys, "train", "--config", package / "c.yaml", *words.split(), names=message)


def test_a_source_of_ones_own(package: Path, capsys: Capsys) -> None:
    assert call("prepare", "shop.log", "--visits", 200, "--out", package / "d") == 0
    manifest = json.loads((package / "d" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"]["items"] == 20 and manifest["kind"] == "sessions"
    fails(capsys, "prepare", "shop.lg", "--out", package / "e", names=r"prepare: shop\.lg cannot be imported")
    fails(capsys, "prepare", "shop.hinge", "--out", package / "e", names=r"prepare: shop\.hinge has no HELP")


def test_a_task_and_an_optimizer_of_ones_own_train(package: Path, dataset: Path) -> None:
    own = OWN | {"model": OWN["model"] | {"name": "shop.mine"}}
    file = write_config(package / "own.yaml", dataset, **own, optimizer={"name": "shop.steps", "learning_rate": 0.5})
    assert call("train", "--config", file, "--run", package / "run", "--training.epochs", 2) == 0
    first, last = (line["loss"] for line in read_log(package / "run") if line["kind"] == "epoch")
    assert last < first
