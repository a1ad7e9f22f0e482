"""A checkpoint goes where it was told, whatever the folder's name, and is read back when it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from jaxrec.errors import UserError
from jaxrec.training.block import TrainState
from jaxrec.training.checkpoint import Checkpoints, plain_name


def test_stores_are_folders_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxrec.training.checkpoint.STORES", (str(tmp_path),))
    with plain_name(tmp_path) as place:
        (place / "file").write_text("x")
        assert place != tmp_path
    assert (tmp_path / "file").read_text() == "x"
    assert not place.exists()


def test_a_save_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ones, zeros = jnp.ones(3), jnp.zeros(3)
    state = TrainState(jnp.ones((), int), {"w": ones}, {"t": ones}, (), {}, None, (), jnp.zeros(2, jnp.uint32))
    Checkpoints(tmp_path).save(state, {})
    whole, other = Checkpoints._manager, tmp_path / "other"

    def elsewhere(self: Checkpoints, kind: str, keep: int | None = None) -> Any:
        """Saves go where nobody reads."""
        return whole(Checkpoints(other) if keep else self, kind, keep)

    monkeypatch.setattr(Checkpoints, "_manager", elsewhere)
    changed = state._replace(params={"w": zeros})
    with pytest.raises(UserError, match="latest/1: the checkpoint reads back otherwise than it was written"):
        Checkpoints(tmp_path).save(changed, {})
    with pytest.raises(UserError, match="latest/2: the checkpoint that was just written cannot be read back"):
        Checkpoints(tmp_path).save(changed._replace(step=state.step + 1), {})
