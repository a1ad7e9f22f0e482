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
    """What a run answers to the positives of a split.

    Attributes:
        dataset, data, part: what was evaluated, and row numbers of the split.
        checkpoint, weights, judge: what with.
        ranks: float32[n].
        top: int32[n, K] items.
        hits: of each positive.
        categories: int32[V], or None.
    """

    dataset: RowsDataset
    data: Retrieval
    part: np.ndarray
    checkpoint: str
    weights: dict[str, Any]
    judge: Any
    ranks: np.ndarray
    top: np.ndarray
    hits: Hits
    categories: np.ndarray | None


def results_files(asked: Asked, found: Answers, k: int) -> list[Page]:
    """``results.csv`` and, where the data has personas, ``PERSONAS.md``, in the run; with what writes them."""
    run = asked.run.path
    page, files = run / "dataset" / RESULTS[1], list[Page]()
    files.append((run / RESULTS[0], lambda: write_text(run / RESULTS[0], results_csv(asked, found, k))))
    if page.is_file():
        files.append((run / RESULTS[1], lambda: shutil.copyfile(page, run / RESULTS[1])))
    return files


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
    category = found.hits.get(f"category_hit@{k}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user_id", "persona", "gt_product", "gt_category", "rank", "hit", "category_hit", "top_products",
                     "top_categories"])  # fmt: skip
    for row, (user, item) in enumerate(zip(queries.users, queries.items, strict=True)):
        top = found.top[row, :k]
        writer.writerow([
            user_ids[user], personas[user], item_ids[item], titles[item],
            int(found.ranks[row]), int(found.hits[f"hit_rate@{k}"][row]),
            "" if category is None else int(category[row]),
            "|".join(str(item_ids[one]) for one in top), "|".join(titles[one] for one in top),
        ])  # fmt: skip
    return text.getvalue()
