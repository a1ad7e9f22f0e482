"""Holding what a tree computes against the golden record: bit by bit where it was recorded, elsewhere within 1e-5."""

from __future__ import annotations

import json
from typing import Any

import pytest

from golden.record import RECORD as FILE
from golden.record import machine

RECORD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
EXACT = machine() == RECORD["machine"]
NEAR = 1e-5


def assert_losses(found: str, recorded: str) -> None:
    """The losses of steps, as text."""
    assert not EXACT or found == recorded
    assert [float(one) for one in found.split()] == pytest.approx([float(one) for one in recorded.split()], rel=NEAR)


def assert_leaf(found: str, recorded: str, path: str) -> None:
    """An array: its type, shape and hash, and of floats norm and projections.

    These are near relative to the norm, or to 0.1 if it is less: moments of gradients that vanish are rounding.
    """
    (kind, sha, *values), (old_kind, old_sha, *old_values) = found.split(), recorded.split()
    assert kind == old_kind, path
    assert (values and not EXACT) or sha == old_sha, f"{path}: {found} was {recorded}"
    near = pytest.approx([float(one) for one in old_values], rel=0, abs=NEAR * (float((old_values or ["0"])[0]) + 0.1))
    assert [float(one) for one in values] == near, path


def assert_like(found: Any, recorded: Any, place: str = "") -> None:
    """What commands printed as JSON. Scores are near place by place; recommendations that changed places tie."""
    if EXACT or not isinstance(recorded, (dict, list, float)):
        assert found == recorded, place
    elif isinstance(recorded, float):
        assert found == pytest.approx(recorded, rel=NEAR, abs=1e-6), place
    elif isinstance(recorded, dict):
        assert found.keys() == recorded.keys(), place
        for name, value in recorded.items():
            assert_like(found[name], value, f"{place}.{name}")
    else:
        assert len(found) == len(recorded), place
        for number, (ours, theirs) in enumerate(zip(found, recorded, strict=True)):
            score = isinstance(theirs, dict) and next((name for name in ("score", "probability") if name in theirs), "")
            thing = next(name for name in theirs if name != score) if score else ""
            if score and ours[thing] != theirs[thing]:
                ours, theirs = ours[score], theirs[score]
            assert_like(ours, theirs, f"{place}[{number}]")
