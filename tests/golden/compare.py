"""Holding what a tree computes against the golden record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from golden.record import RECORD as FILE
from golden.record import machine

RECORD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
EXACT = machine() == RECORD["machine"]
"""Whether processor and versions are those of the record, so that every bit is the same."""
NEAR = 1e-5


def assert_losses(found: str, recorded: str) -> None:
    """The losses of steps, as text."""
    if EXACT:
        assert found == recorded
    assert [float(one) for one in found.split()] == pytest.approx([float(one) for one in recorded.split()], rel=NEAR)


def assert_leaf(found: str, recorded: str, path: str) -> None:
    """An array: its type, shape and hash, and of floats norm and projections.

    These are near relative to the norm, or to 0.1 if it is less: moments of gradients that vanish are rounding.
    """
    kind, sha, *values = found.split()
    recorded_kind, recorded_sha, *recorded_values = recorded.split()
    assert kind == recorded_kind, path
    if EXACT or not values:
        assert sha == recorded_sha, f"{path}: {found} was {recorded}"
    norm = float(recorded_values[0]) if recorded_values else 0.0
    assert [float(one) for one in values] == pytest.approx(
        [float(one) for one in recorded_values], rel=0, abs=NEAR * (norm + 0.1)
    ), path


def assert_like(found: Any, recorded: Any, place: str = "") -> None:
    """What commands printed as JSON: the same, or elsewhere with numbers that are near."""
    if EXACT:
        assert found == recorded
    elif isinstance(recorded, dict):
        assert found.keys() == recorded.keys(), place
        for name, value in recorded.items():
            assert_like(found[name], value, f"{place}.{name}")
    elif isinstance(recorded, list):
        assert len(found) == len(recorded), place
        for score in ("score", "probability"):
            if recorded and isinstance(recorded[0], dict) and score in recorded[0]:
                return _assert_recommendations(found, recorded, score, place)
        for number, value in enumerate(recorded):
            assert_like(found[number], value, f"{place}[{number}]")
    elif isinstance(recorded, float):
        assert found == pytest.approx(recorded, rel=NEAR, abs=1e-6), place
    else:
        assert found == recorded, place


def _assert_recommendations(
    found: list[dict[str, Any]], recorded: list[dict[str, Any]], score: str, place: str
) -> None:
    """Scores are near place by place, and what stands elsewhere, or has come in, ties."""
    ids = next(name for name in recorded[0] if name != score)
    scores = {str(one[ids]): one[score] for one in recorded}
    for number, (mine, theirs) in enumerate(zip(found, recorded, strict=True)):
        if mine[ids] == theirs[ids]:
            assert_like(mine, theirs, f"{place}[{number}]")
        else:
            assert mine[score] == pytest.approx(theirs[score], rel=NEAR), place
            assert scores.get(str(mine[ids]), recorded[-1][score]) == pytest.approx(theirs[score], rel=NEAR), place
