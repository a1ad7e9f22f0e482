"""Next items of sessions."""

from __future__ import annotations

from typing import Literal

from jaxrec.config.sections import Count, DataConfig, EvaluationConfig

READS = "sessions"  # data sets of this kind


class Data(DataConfig):
    order: Literal["random", "time"] = "random"
    """Order of the sessions: shuffled anew each epoch, or by time (within each lane, or from step to step)."""
    last_days: Count | None = None
    """Train on the sessions of the last so many days alone (by a session's last event, in UTC; null: on all), as where
    a run starts from another one that knows the others. Popularity stays that of all of training."""


class Evaluation(EvaluationConfig):
    history: Literal["ranked", "masked"] = "ranked"
    """What a session holds already: ranked like all other items, or masked, no candidates for its further clicks (the
    target always is one). S3-Rec and RecBole mask it, session-based work does not."""
