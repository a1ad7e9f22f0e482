"""What this tree computes is what the golden record says: bit by bit where it was recorded, elsewhere within 1e-5.

Compiling takes most of the time: quickly a case of each model and kind of table, ``slow`` the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden.cases import FEEDS, TRAINING
from golden.compare import EXACT, RECORD, assert_leaf, assert_losses
from golden.record import PREPARE, prepare, record_feed, record_training

QUICK = {"gru4rec cross_entropy, constrained", "narm softmax", "sasrec sampled", "merrec both", "autoint+ with ratings",
         "two_tower triplet, hard negatives", "two_tower table rows"}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TRAINING]
)
def test_training(name: str) -> None:
    """Losses of the first steps, then parameters, tables, optimizer and random key."""
    found, recorded = record_training(name), RECORD["training"][name]
    assert_losses(found["losses"], recorded["losses"])
    assert found["leaves"].keys() == recorded["leaves"].keys()
    for path, leaf in recorded["leaves"].items():
        assert_leaf(found["leaves"][path], leaf, path)


@pytest.mark.parametrize("device_memory", [0, pytest.param(2048, marks=pytest.mark.slow)], ids=["streamed", "resident"])
@pytest.mark.parametrize("name", FEEDS)
def test_feeds(name: str, device_memory: int) -> None:
    """Every array of the blocks of two epochs: integers are the same everywhere."""
    found: dict[str, Any] = record_feed(name, device_memory)
    recorded = RECORD["feeds"][name]
    assert found.keys() == recorded.keys()
    for path, leaf in recorded.items():
        if path.startswith("epoch"):
            assert_leaf(found[path], leaf, path)
        else:
            assert found[path] == leaf


@pytest.mark.parametrize("name", PREPARE)
def test_prepare(name: str, tmp_path: Path) -> None:
    """A made-up data set has the content hash that it had."""
    found = prepare(name, tmp_path / name)
    assert not EXACT or found == RECORD["prepare"][name]
