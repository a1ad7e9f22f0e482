"""Items for users: two towers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jaxrec.config.sections import CUTOFF, EvaluationConfig
from jaxrec.data.splits import RowData
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.rules import Rules

READS = "rows"  # data sets of this kind
Data, Recommendation = RowData, Rules


class Training(RowTraining):
    metric: Annotated[str, Field(pattern=f"^(recall|mrr|ndcg|hit_rate){CUTOFF}$")] = "recall@10"
    """The validation metric that names the best epoch: recall, mrr, ndcg or hit_rate at a cut-off, as recall@10."""


class Evaluation(EvaluationConfig):
    category: str | None = None
    """A field of the item; an answer with one of the right category is a category hit."""
