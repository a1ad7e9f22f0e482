"""What this tree computes is what the golden record says: bit by bit where it was recorded, elsewhere within 1e-5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden.cases import FEEDS, TRAINING
from golden.compare import EXACT, RECORD, assert_leaf, assert_losses
from golden.record import PREPARE, prepare, record_feed, record_training


@pytest.mark.parametrize("name", TRAINING)
def test_training(name: str) -> None:
    """Losses of the first steps, then parameters, tables, optimizer and random key."""
    found, recorded = record_training(name), RECORD["training"][name]
    assert_losses(found["losses"], recorded["losses"])
    assert found["leaves"].keys() == recorded["leaves"].keys()
    for path, leaf in recorded["leaves"].items():
        assert_leaf(found["leaves"][path], leaf, path)


@pytest.mark.parametrize("device_memory", [0, 2048], ids=["streamed", "resident"])
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
