"""Peers in their own process: what they are handed, rounds in turn, and mistakes in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jaxrec.cli.command import command

pytestmark = pytest.mark.slow

# The interface that is used of the authors' code, around a loop that writes down what it meets.
CHECKOUT = """
import json, os, sys
import numpy as np

class IndexedAdagradM: pass

class SessionDataIterator:
    def __init__(self, data, batch_size, n_sample, store):
        assert list(data.columns) == ["SessionId", "ItemId", "Time"] and not (data["SessionId"].diff() < 0).any()
        self.items = data["ItemId"].nunique()
        self.sessions = [list(group) for _, group in data.groupby("SessionId")["ItemId"]]
        self.batch = batch_size
        self.sample_cache = Store(store // n_sample)
    def __call__(self, enable_neg_samples, reset_hook=None):
        for end in range(self.batch, len(self.sessions) + self.batch, self.batch):
            lanes = self.sessions[end - self.batch:end]
            masks = np.ones(self.batch, bool), np.ones(self.batch, bool)
            if len(lanes) < self.batch and reset_hook(len(lanes), *masks):
                return
            self.sample_cache.take()
            yield np.array([lane[0] for lane in lanes]), np.array([lane[1] for lane in lanes])

class Store:
    def __init__(self, length):
        self.generate_length, self.sample_pointer, self.filled = length, 0, 1
    def take(self):
        if self.sample_pointer >= self.generate_length:
            raise RuntimeError("the store ran dry within a round")
        self.sample_pointer += 1
    def _refresh(self):
        self.sample_pointer, self.filled = 0, self.filled + 1

class GRU4Rec:
    def __init__(self, **options):
        self.options = options
    def fit(self, data, sample_cache_max_size, compatibility_mode):
        options = self.options
        iterator = SessionDataIterator(data, options["batch_size"], options["n_sample"], sample_cache_max_size)
        print("noise on stdout")
        for epoch in range(options["n_epochs"]):
            for step, (given, wanted) in enumerate(iterator(True, lambda *masks: False)):
                seen = {"epoch": epoch, "step": step, "pairs": len(given), "items": iterator.items,
                        "filled": iterator.sample_cache.filled, "loss": options["loss"], "lr": options["learning_rate"]}
                with open(os.path.join(os.path.dirname(__file__), "seen"), "a") as stream:
                    stream.write(json.dumps(seen) + chr(10))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "gru4rec_pytorch.py").write_text(CHECKOUT)
    return folder


def test_the_authors_loop_makes_as_many_steps_as_asked_beside_ours(
    script: Any, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jaxrec.benchmarks.sweep.matmul_ceiling", lambda: 100.0)
    words = "gru4rec --items 30 --batch 4 --units 4 --n-sample 8 --steps 3 --repetitions 2 --loss bpr_max"
    more = ["--no-collectives", "--json", str(tmp_path / "out.json"), "--peer", str(checkout)]
    assert command(script.main, [*words.split(), *more]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    (row,), (peer,) = result["rows"], result["peers"]
    assert all(row[name] == peer[name] for name in ("model", "loss", "batch", "items"))
    assert peer["peer_device"] == "cpu" and re.match(r"\d+\.\d+", peer["torch"]) and "sha256:" in peer["peer_version"]
    assert len(peer["ratios"]) == 2 and peer["peer"] in capsys.readouterr().out
    assert peer["ratio"] == pytest.approx(sum(peer["ratios"]) / 2, abs=0.001)
    lines = [json.loads(line) for line in (checkout / "seen").read_text().splitlines()]
    assert len(lines) == 9, "one round to warm up, and two that count"
    assert {(line["pairs"], line["items"], line["loss"], line["lr"]) for line in lines} == {(4, 30, "bpr-max", 0.05)}
    # Room for all rounds and the batch ahead, so that the store of negatives is filled once.
    assert {line["filled"] for line in lines} == {1}


def test_mistakes(script: Any, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = f"--items 30 --batch 4 --units 4 --steps 3 --repetitions 1 --peer {checkout}"
    for words, names in {
        f"gru4rec --peer {tmp_path}": f"{tmp_path}: no checkout of the authors' code",
        f"gru4rec --loss bpr_max {tiny}": "died with status 1.*no_such_module",
    }.items():
        (checkout / "gru4rec_pytorch.py").write_text("import no_such_module  # class IndexedAdagradM\n")
        assert command(script.main, words.split()) == 2
        assert re.search(names, capsys.readouterr().err)
