"""The metrics of a two-tower run on a split, beside chance, popularity and the oracle; see jaxrec/evaluate.py."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES, Positives
from jaxrec.cli.command import progress
from jaxrec.data.codes import FieldCodes
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.data.splits import PAIRS, counted, in_words
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.run import Run, open_run_data, write_text
from jaxrec.tasks.base import load
from jaxrec.tasks.results import question
from jaxrec.tasks.retrieval.hits import (
    Hits,
    answered,
    candidates_alone,
    expected,
    intervals,
    item_categories,
    means,
    oracle,
    take,
)
from jaxrec.tasks.retrieval.judge import RetrievalEvaluator
from jaxrec.tasks.rules import RuleBook

PERSONA = "persona"
RESULTS = ("results.csv", "PERSONAS.md")


class Evaluation(NamedTuple):
    """What a run answers to the positives of a split.

    Attributes:
        data, part: the data, and row numbers of the split.
        evaluator: of the split.
        ranks: float32[n].
        top: int32[n, K] items.
        hits: of each positive.
        categories: int32[V], or None.
        dataset, checkpoint: what was evaluated.
    """

    data: Retrieval
    part: np.ndarray
    evaluator: RetrievalEvaluator
    ranks: np.ndarray
    top: np.ndarray
    hits: Hits
    categories: np.ndarray | None
    dataset: RowsDataset
    checkpoint: str
    weights: dict[str, Any]


def answer_split(run: Run, split: str, ks: Sequence[int], path: str | Path | None = None) -> Evaluation:
    """Rank the positives of a split.

    Args:
        path: the dataset directory where it is no longer at the configuration's ``data.path``.
    """
    dataset = open_run_data(run, path or run.config.data.path)
    assert isinstance(dataset, RowsDataset)
    dataset.verify()
    data = Retrieval.open(run.config, dataset)
    part = getattr(data.splits, split)
    _, model, weights, which = load(run)
    evaluator = RetrievalEvaluator(model, data, part, run.config.evaluation)
    if not evaluator.targets:
        raise UserError(f"{dataset.path}: the {split} split has no positive row; choose another --split")
    if max(ks) >= data.n_items:
        raise UserError(f"--k {max(ks)}: larger than the catalogue of {data.n_items - 1} items; choose a smaller one")
    categories = item_categories(dataset, run.config.evaluation.category)
    with progress(f"evaluate: {split}", evaluator.blocks) as update:
        ranks, top = evaluator.ranks(weights, max(ks), update=update)
    hits = answered(ranks, top, evaluator.queries.items, categories, ks)
    return Evaluation(data, part, evaluator, ranks, top, hits, categories, dataset, which, weights)


def evaluate_retrieval(
    run: Run,
    split: str,
    ks: Sequence[int],
    path: str | Path | None = None,
    compared: Sequence[str] = (),
    groups: Sequence[str] | None = None,
    folds: int = 0,
    cross_validate: Callable[..., dict[str, Any]] | None = None,
) -> tuple[dict[str, Any], Evaluation]:
    """Metrics of a run on a split, as they are written to ``eval-<split>.json``, and what they were taken from.

    Args:
        ks: cut-offs.
        path: see ``answer_split``.
        compared: names of baselines to fit on the run's training positives.
        groups: what is known of the users to report by; None for their personas, where the data has them.
        folds: of the cross-validation by review, for data with personas; 0 leaves it out.
        cross_validate: ``jaxrec.personas.folds.cross_validate``, which the command hands down.
    """
    begin = time.perf_counter()
    found = answer_split(run, split, ks, path)
    asked, had = found.evaluator.queries, found.evaluator.had
    chance = expected(np.zeros(found.data.n_items), asked.items, had[asked.users], found.categories, ks)
    counts = found.data.item_counts().astype(np.float64)
    popular = expected(counts, asked.items, had[asked.users], found.categories, ks)
    result: dict[str, Any] = {
        "split": split,
        "protocol": run.config.data.protocol,
        "targets": found.evaluator.targets,
        "items": found.data.n_items - 1,
        "checkpoint": found.checkpoint,
        **ranking_metrics(found.ranks, ks),
        **means(found.hits),
        "intervals": intervals(found.hits),
        "chance": means(chance),
        "popularity": means(popular),
    }
    if run.config.data.protocol == "in_sample":
        numbers = [field.name for field in found.data.fields.side("user").numerical]
        result["oracle"] = oracle(asked, numbers, found.categories, ks)
    best = run.manifest.get("optimum")
    if best is not None and np.bitwise_count(had[asked.users]).sum(axis=1).max() <= 1:  # of rankings of all products
        wanted = [f"hit_rate@{k}" for k in ks]
        result["optimum"] = {name: best[name] for name in wanted if name in best}
    held = found.data.held_by_training(found.part) if split != "train" else np.zeros(len(asked.users), bool)
    if split != "train":
        result["repeats"] = counted(found.data.splits, held)
    result["groups"] = _groups(found, groups, chance)
    if groups is None and held.any():
        result["groups"]["pair"] = _by_title(found, np.array(PAIRS, object)[held.astype(int)], chance)
    if run.config.recommendation.rules:
        result["with_rules"] = _with_rules(run, found, ks)
    if compared:
        result["baselines"] = measure_baselines(compared, found, ks)
    if folds and cross_validate and "personas" in run.manifest and run.config.data.protocol == "in_sample":
        with progress("evaluate: by review", folds) as update:
            result["by_review"] = cross_validate(run.config, found.dataset, ks, folds, update=update)
    result["question"] = question(run, split, found.checkpoint, folds=folds if "by_review" in result else 0)
    result["seconds"] = round(time.perf_counter() - begin, 3)
    return result, found


# ---- parts -----------------------------------------------------------------------------------------------------------


def _groups(found: Evaluation, wanted: Sequence[str] | None, chance: Hits) -> dict[str, Any]:
    shown = pq.read_table(found.dataset.path / "users.parquet")
    names = [name for name in shown.column_names if name != found.data.schema.user]
    for name in wanted or ():
        if name not in names:
            raise UserError(f"--groups {name}: not known of the users{nearest(name, names)}; there are "
                            f"{', '.join(names) or 'none'}")  # fmt: skip
    if wanted is None:
        wanted = [PERSONA] if PERSONA in names else []
    result: dict[str, Any] = {}
    for name in wanted:
        titles = np.array([str(value) for value in shown[name].to_pylist()], object)
        result[name] = _by_title(found, titles[found.evaluator.queries.users], chance)
    return result


def _by_title(found: Evaluation, titles: np.ndarray, chance: Hits) -> dict[str, Any]:
    """Hits of the queries by str[n] title."""
    result: dict[str, Any] = {}
    for title in sorted(set(titles)):
        rows = np.flatnonzero(titles == title)
        own = take(found.hits, rows)
        result[title] = {"targets": len(rows), **means(own), "intervals": intervals(own),
                         "chance": means(take(chance, rows))}  # fmt: skip
    return result


def _with_rules(run: Run, found: Evaluation, ks: Sequence[int]) -> dict[str, Any]:
    """The same with the configured rules applied."""
    book = RuleBook(run.config.recommendation.rules, found.data.schema, FieldCodes(run).strict)
    schema, place = found.data.schema, found.data.schema.slices()
    part = found.data.positive_rows(found.part)
    users = {name: found.data.rows.columns[part][:, place[name]] for name in schema.of_side("user")}
    of_items, items = schema.side("item"), np.asarray(found.dataset.array("items.npy"))
    by_field = {name: items[:, where] for name, where in of_items.slices().items()}
    ranks, top = found.evaluator.ranks(found.weights, max(ks), (book.of_users(users), book.of_items(by_field)))
    hits = answered(ranks, top, found.evaluator.queries.items, found.categories, ks)
    return {**ranking_metrics(ranks, ks), **means(hits), "intervals": intervals(hits)}


def measure_baselines(names: Sequence[str], found: Evaluation, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Conservative ranks of the same positives among the same candidates, of baselines fitted on training."""
    train, data = found.data.queries(found.data.splits.train), found.data
    result = {}
    for name in names:
        score = RETRIEVAL_BASELINES[name](Positives(train.users, train.items), data.n_users, data.n_items)
        result[name] = ranking_metrics(_ranks(score, found), ks)
    return result


def _ranks(score: Any, found: Evaluation, rows: int = 1024) -> np.ndarray:
    asked, had, parts = found.evaluator.queries, found.evaluator.had, []
    for start in range(0, len(asked.users), rows):
        part = slice(start, start + rows)
        targets = asked.items[part]
        scores = candidates_alone(score(asked.users[part]), targets, had[asked.users[part]])
        own = scores[np.arange(len(targets)), targets][:, None]
        parts.append(np.sum(~(scores < own), axis=1).astype(np.float64))
    return np.concatenate(parts)


# ---- what is written -------------------------------------------------------------------------------------------------


def results_files(run: Run, found: Evaluation, k: int) -> list[tuple[Path, Callable[[], object]]]:
    """``results.csv`` (a line for each positive: the customer, what it got and what it would have been) and, where the
    data has personas, ``PERSONAS.md``, in the run; with what writes them."""
    table, page = run.path / RESULTS[0], run.path / "dataset" / RESULTS[1]
    files: list[tuple[Path, Callable[[], object]]] = [(table, lambda: write_text(table, results_csv(run, found, k)))]
    if page.is_file():
        files.append((run.path / RESULTS[1], lambda: shutil.copyfile(page, run.path / RESULTS[1])))
    return files


def results_csv(run: Run, found: Evaluation, k: int) -> str:
    """The text of ``results.csv``."""
    users, items = (pq.read_table(found.dataset.path / f"{side}s.parquet") for side in ("user", "item"))
    schema, asked = found.data.schema, found.evaluator.queries
    user_ids, item_ids = users[str(schema.user)].to_pylist(), items[str(schema.item)].to_pylist()
    personas = users[PERSONA].to_pylist() if PERSONA in users.column_names else None
    titles = _category_titles(run, found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user_id", "persona", "gt_product", "gt_category", "rank", "hit", "category_hit", "top_products",
                     "top_categories"])  # fmt: skip
    for row, (user, item) in enumerate(zip(asked.users, asked.items, strict=True)):
        category = found.hits.get(f"category_hit@{k}")
        top = found.top[row, :k]
        writer.writerow([
            user_ids[user], "" if personas is None else personas[user], item_ids[item], titles[item],
            int(found.ranks[row]), int(found.hits[f"hit_rate@{k}"][row]),
            "" if category is None else int(category[row]),
            "|".join(str(item_ids[one]) for one in top), "|".join(titles[one] for one in top),
        ])  # fmt: skip
    return text.getvalue()


def _category_titles(run: Run, found: Evaluation) -> list[str]:
    if found.categories is None:
        return [""] * found.data.n_items
    values = found.dataset.values(str(run.config.evaluation.category))
    return ["unknown" if not code else str(values[code - 1]) for code in found.categories]


def retrieval_table(result: dict[str, Any], ks: Sequence[int], files: Sequence[Path]) -> str:
    """What the command prints."""
    head = f"{result['split']} ({result['protocol']}): {result['targets']:,} positives among {result['items']:,} items"
    lines = [f"{head}, {result['checkpoint']} checkpoint, {result['seconds']:.1f} s"]
    if "repeats" in result:
        lines += in_words(result["repeats"], result["targets"], result["split"])
    lines += [f"{'':28}" + "".join(f"{'@' + str(k):>9}" for k in ks)]
    lines += [f"{name:28}" + "".join(f"{result[f'{name}@{k}']:9.4f}" for k in ks) for name in ("recall", "mrr", "ndcg")]
    for kind, title in (("hit_rate", "hit"), ("category_hit", "category hit")):
        if f"{kind}@{ks[0]}" in result:
            lines += ["", f"{title} rate", *_beside(result, kind, ks)]
    for name, groups in result["groups"].items():
        lines += ["", *_group_table(name, groups, ks[0])]
    if "by_review" in result:
        lines += ["", *_review_table(result["by_review"], ks)]
    if "baselines" in result:
        lines += ["", f"{'baselines':28}" + "".join(f"{f'{m}@{k}':>12}" for k in ks for m in ("recall", "ndcg"))]
        both = {"this run": result, **result["baselines"]}
        lines += [f"{title:28}" + "".join(f"{row[f'{m}@{k}']:12.4f}" for k in ks for m in ("recall", "ndcg"))
                  for title, row in both.items()]  # fmt: skip
    return "\n".join([*lines, *(f"written to {file}" for file in files)])


def _beside(result: dict[str, Any], kind: str, ks: Sequence[int]) -> list[str]:
    def line(title: str, row: dict[str, Any]) -> str:
        return f"  {title:26}" + "".join(f"{row[f'{kind}@{k}']:9.4f}" for k in ks)

    ends = [[f"{result['intervals'][f'{kind}@{k}'][end]:9.4f}" for k in ks] for end in (0, 1)]
    lines = [
        line("this run", result),
        f"  {'95 % interval, from':26}" + "".join(ends[0]),
        f"  {'to':>26}" + "".join(ends[1]),
    ]
    if "with_rules" in result:
        lines.append(line("with the rules", result["with_rules"]))
    lines += [line("chance", result["chance"]), line("popularity", result["popularity"])]
    if all(f"{kind}@{k}" in result.get("optimum", {}) for k in ks):
        lines.append(line("best known ranking", result["optimum"]))
    for title, row in result.get("oracle", {}).items():
        lines.append(line(f"oracle, {title}", row))
    return lines


def _group_table(name: str, groups: dict[str, Any], k: int) -> list[str]:
    kinds = [kind for kind in (f"hit_rate@{k}", f"category_hit@{k}") if kind in next(iter(groups.values()))]
    lines = [
        f"by {name:23}" + f"{'positives':>10}" + "".join(f"{kind:>18}{'interval':>16}{'chance':>9}" for kind in kinds)
    ]
    for title, row in groups.items():
        cells = "".join(
            f"{row[kind]:18.4f}{_interval(row['intervals'][kind]):>16}{row['chance'][kind]:9.4f}" for kind in kinds
        )
        lines.append(f"  {title:24}{row['targets']:10,}" + cells)
    return lines


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _review_table(found: dict[str, Any], ks: Sequence[int]) -> list[str]:
    lines = [f"by review: {found['folds']} folds, {found['targets']:,} reviews; {found['profiles']}"]
    for kind in ("hit_rate", "category_hit"):
        if f"{kind}@{ks[0]}" in found:
            lines += [f"{kind.replace('_', ' ')}" + " " * (28 - len(kind)) + "".join(f"{'@' + str(k):>9}" for k in ks)]
            lines += _beside(found, kind, ks)
    return lines
