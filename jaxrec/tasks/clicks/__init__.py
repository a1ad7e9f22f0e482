"""Labels of rows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jaxrec.config.sections import CUTOFF, TrainingConfig
from jaxrec.data.splits import RowData

READS = "rows"  # data sets of this kind
METRICS = f"^(auc|log_loss|(ndcg|hit_rate|ndcg_published|hit_rate_published){CUTOFF})$"
Data = RowData
OWN_ROWS = True  # rankings are of each user's own rows, of which there may be any number, and not of the catalogue


class RowTraining(TrainingConfig):
    passes: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Times that an epoch goes through the training split. For small data: what is done once an epoch (validation,
    saving) takes longer than a pass."""


class Training(RowTraining):
    metric: Annotated[str, Field(pattern=METRICS)] = "auc"
    """The validation metric that names the best epoch: auc, log_loss, ndcg or hit_rate at a cut-off, or ndcg_published,
    hit_rate_published, as ndcg@10."""
