"""What an evaluation leaves in a run beside its figures: a line for each positive, and the page of the personas."""

from __future__ import annotations

import csv
import io
import shutil
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.run import write_text
from jaxrec.tasks.report import Asked, Page
from jaxrec.tasks.retrieval.hits import Hits

PERSONA = "persona"
RESULTS = ("results.csv", "PERSONAS.md")


class Answers(NamedTuple):
    """What a run answers to the positives of a split."""

    dataset: RowsDataset
    data: Retrieval
    part: np.ndarray  # row numbers of the split
    checkpoint: str
    weights: dict[str, Any]
    judge: Any
    ranks: np.ndarray  # float32[n]
    top: np.ndarray  # int32[n, K] items
    hits: Hits  # of each positive
    categories: np.ndarray | None  # int32[V]


def results_files(asked: Asked, found: Answers, k: int) -> list[Page]:
    """``results.csv`` and, where the data has personas, ``PERSONAS.md``, in the run; with what writes them."""
    run = asked.run.path
    page = run / "dataset" / RESULTS[1]
    files: list[Page] = [(run / RESULTS[0], lambda: write_text(run / RESULTS[0], results_csv(asked, found, k)))]
    return [*files, (run / RESULTS[1], lambda: shutil.copyfile(page, run / RESULTS[1]))] if page.is_file() else files


def results_csv(asked: Asked, found: Answers, k: int) -> str:
    """A line for each positive: the customer, what it got and what it would have been."""
    users, items = (pq.read_table(found.dataset.path / f"{side}s.parquet") for side in ("user", "item"))
    schema, queries = found.data.schema, found.judge.queries
    user_ids, item_ids = users[str(schema.user)].to_pylist(), items[str(schema.item)].to_pylist()
    personas = users[PERSONA].to_pylist() if PERSONA in users.column_names else [""] * len(user_ids)
    titles = [""] * found.data.n_items
    if found.categories is not None:
        values = ["unknown", *map(str, found.dataset.values(str(asked.run.config.evaluation.category)))]
        titles = [values[code] for code in found.categories]
    ranks, hits = found.ranks.astype(int), found.hits[f"hit_rate@{k}"].astype(int)
    right = found.hits.get(f"category_hit@{k}")
    category = [""] * len(hits) if right is None else right.astype(int)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user_id", "persona", "gt_product", "gt_category", "rank", "hit", "category_hit", "top_products",
                     "top_categories"])  # fmt: skip
    for user, item, top, *result in zip(queries.users, queries.items, found.top, ranks, hits, category, strict=True):
        lists = ("|".join(str(names[one]) for one in top[:k]) for names in (item_ids, titles))
        writer.writerow([user_ids[user], personas[user], item_ids[item], titles[item], *result, *lists])
    return text.getvalue()
