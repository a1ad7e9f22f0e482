"""Next items of sequences of typed events, by what items are called."""

from __future__ import annotations

from jaxrec.config.sections import Count, EvaluationConfig
from jaxrec.tasks import sessions

READS = "sessions"  # data sets of this kind


Data = sessions.Data


class Evaluation(EvaluationConfig):
    sessions: Count | None = None
    """At most so many sessions are evaluated, drawn at random but always the same (null: all)."""
