"""Next items of sessions."""

from __future__ import annotations

from typing import Literal

from jaxrec.config.sections import DataConfig, EvaluationConfig

READS = "sessions"  # data sets of this kind


class Data(DataConfig):
    order: Literal["random", "time"] = "random"
    """Order of the sessions: shuffled anew each epoch, or by time (within each lane, or from step to step)."""


class Evaluation(EvaluationConfig):
    ties: Literal["conservative", "standard", "median"] = "conservative"
    """Rank among equal scores: last, first or in the middle."""
