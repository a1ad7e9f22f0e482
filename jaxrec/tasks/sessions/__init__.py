"""Next items of sessions."""

from __future__ import annotations

from typing import Literal

from jaxrec.config.sections import DataConfig

READS = "sessions"  # data sets of this kind


class Data(DataConfig):
    order: Literal["random", "time"] = "random"
    """Order of the sessions: shuffled anew each epoch, or by time (within each lane, or from step to step)."""
