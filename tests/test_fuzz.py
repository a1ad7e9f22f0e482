"""Whatever people hand in is answered or refused in one line; ``python tests/fuzz.py 5000`` tries more of it."""

from __future__ import annotations

import os
from pathlib import Path

import fuzz
import pytest
from fuzz_world import World

EXAMPLES = int(os.environ.get("JAXREC_FUZZ", "20"))  # of each kind


@pytest.fixture(scope="module")
def world(run: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("fuzz"), {"sessions": run})


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_what_people_hand_in_is_answered_or_refused_in_one_line(kind: str, world: World) -> None:
    counts = fuzz.fuzz(world, kind, EXAMPLES)
    assert counts["answered"] and counts["refused"], counts
