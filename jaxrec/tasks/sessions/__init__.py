"""Next items of sessions."""

from __future__ import annotations

from typing import Literal

from jaxrec.config.sections import DataConfig, EvaluationConfig

READS = "sessions"  # data sets of this kind


class Data(DataConfig):
    """The data section of models of sessions."""

    order: Literal["random", "time"] = "random"
    """Order of the sessions: shuffled anew each epoch, or by time (within each lane, or from step to step)."""


class Evaluation(EvaluationConfig):
    """The evaluation section of models of sessions."""

    ties: Literal["conservative", "standard", "median"] = "conservative"
    """Rank among equal scores: last, first or in the middle."""
