"""The customers of a two-tower run in pictures: python -m jaxrec.plots personas.

How many there are of each persona, how well each is served beside chance, where customers and products lie in the
space that both towers map to, and the training loss. The hit rates are worked out here, so no evaluation needs to have
run before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.errors import UserError
from jaxrec.personas.embedding import embed, embedding_figure, tsne
from jaxrec.personas.groups import Groups, colour, customers_by, products_of, tell_replaced
from jaxrec.plots.pictures import Shown, legible, save_picture, titled
from jaxrec.run import open_run
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.report import Asked
from jaxrec.tasks.retrieval.hits import Hits, expected, intervals, means, take
from jaxrec.tasks.retrieval.judge import answer_split
from jaxrec.tasks.retrieval.pages import Answers
from jaxrec.training.telemetry import read_log

FILES = ("persona_distribution.png", "results_by_persona.png", "embedding_space.png", "loss_curve.png")
MOST_BARS = 24  # groups of a picture; the smaller ones are taken together
MOST_DOTS = 60  # of the loss curve


def draw_personas(
    path: Path, out: Path, by: str | None = None, method: str = "pca", split: str = "test", k: int | None = None,
    data: str | None = None,
) -> Iterator[Path]:  # fmt: skip
    """Draw the four pictures of a two-tower run; each is named once it is written.

    Args:
        path: the run directory.
        out: the folder they go to; made, with its parents, where it is missing.
        by: the column of users.parquet that customers are grouped by; None for their personas.
        method: ``pca`` or ``tsne``, to bring the embedding space to two dimensions.
        split: whose positives the hit rates are of.
        k: cut-off of the hit rates; None for the first of the run's ``evaluation.k``.
        data: the dataset directory where it is no longer at the configuration's ``data.path``.
    """
    run = open_run(path)
    if run.config.model.task != "retrieval":
        raise UserError(f"{path}: a run of {run.config.model.name}; name one of two_tower")
    k = run.config.evaluation.k[0] if k is None else k
    if k < 1:
        raise UserError(f"--k {k}: expected a whole number from 1")
    _check_folder(out)
    if method == "tsne":
        tsne()
    customers, losses = customers_by(run, by), read_losses(path)
    found = answer_split(Asked.of(run, split, [k], data))
    products, barred = products_of(run, found), customers.most(MOST_BARS)
    name = legible(path.resolve().name, "this run").text
    figures = (
        distribution_figure(barred, name),
        results_figure(results_by(found, barred, k), barred, k, f"{name}, {split} split ({run.config.data.protocol})"),
        embedding_figure(embed(run, found), customers, products, method, name),
        loss_figure(losses, RowTraining.of(run.config.training).passes, name),
    )
    tell_replaced(customers, products)
    out.mkdir(parents=True, exist_ok=True)
    for file, figure in zip(FILES, figures, strict=True):
        save_picture(figure, out / file)
        yield out / file


def _check_folder(out: Path) -> None:
    for place in (out, *out.absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise UserError(f"--out {out}: {place} is a file; name a folder")
            break
    for name in FILES:
        if (out / name).is_dir():
            raise UserError(f"--out {out}: {name} in it is a folder; choose another place")


# ---- how many of each ------------------------------------------------------------------------------------------------


def distribution_figure(customers: Groups, name: str) -> Any:
    """A matplotlib figure with a bar for each group: its customers and their share."""
    total, rows = int(customers.counts.sum()), range(len(customers.names))
    figure, (axes,) = _bars(customers.labels, 1)
    axes.barh(rows, customers.counts, color=[colour(row) for row in rows])
    for row, count in zip(rows, customers.counts, strict=True):
        axes.annotate(f"{count:,} ({count / total:.1%})", (count, row), (4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, customers.counts.max() * 1.25)  # room for the figures
    axes.set_xlabel("customers")
    titled(figure, f"{name}: {total:,} customers by {customers.field}")
    return figure


def _bars(labels: Sequence[Shown], panels: int) -> tuple[Any, list[Any]]:
    """A figure of horizontal bars, the first at the top, and its panels."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state
    from matplotlib.ticker import MaxNLocator

    lines = max(label.text.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(3 + 4.5 * panels, 1.8 + (0.2 + 0.22 * lines) * len(labels)), layout="constrained")
    every = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    every[0].set_yticks(range(len(labels)), [label.text for label in labels])
    every[0].set_ylim(len(labels) - 0.4, -0.6)
    for tick, label in zip(every[0].get_yticklabels(), labels, strict=True):
        label.on(tick)
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)))
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    return figure, every


# ---- how well each is served -----------------------------------------------------------------------------------------


class Result(NamedTuple):
    """How well some customers are served; the dictionaries go by metric and are empty where none has a positive.

    Attributes:
        customers: that have positives in the split.
        positives: of the split, that the values are means over.
        intervals: the 95 % bootstrap interval of each value.
        chance: what a random list reaches.
    """

    customers: int
    positives: int
    values: dict[str, float]
    intervals: dict[str, list[float]]
    chance: dict[str, float]


def results_by(found: Answers, customers: Groups, k: int) -> list[Result]:
    """The results of each group, and behind them those of all customers."""
    asked, had = found.judge.queries, found.judge.had
    chance = expected(np.zeros(found.data.n_items), asked.items, had[asked.users], found.categories, [k])
    own = customers.of[asked.users]
    parts = [*(np.flatnonzero(own == group) for group in range(len(customers.names))), np.arange(len(own))]
    return [_result(found.hits, chance, asked.users, rows) for rows in parts]


def _result(hits: Hits, chance: Hits, users: np.ndarray, rows: np.ndarray) -> Result:
    if not len(rows):
        return Result(0, 0, {}, {}, {})
    own = take(hits, rows)
    return Result(len(np.unique(users[rows])), len(rows), means(own), intervals(own), means(take(chance, rows)))


def results_figure(results: Sequence[Result], customers: Groups, k: int, title: str) -> Any:
    """A matplotlib figure with a panel for each metric, and in it for each group a bar, its interval and chance.

    Args:
        results: of each group of ``customers`` and of all, as ``results_by`` gives them.
    """
    metrics = list(results[-1].values)
    names = [*customers.labels, legible("all", "all")]
    labels = [Shown(f"{label.text}\n{_counted(result)}", label.family)
              for label, result in zip(names, results, strict=True)]  # fmt: skip
    figure, panels = _bars(labels, len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_metric(axes, metric, results)
        axes.set_xlabel({f"hit_rate@{k}": f"hit rate@{k}", f"category_hit@{k}": f"category hit rate@{k}"}[metric])
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False)
    titled(figure, f"{title}: results by {customers.field}")
    return figure


def _counted(result: Result) -> str:
    positives = f", {result.positives:,} positives" if result.positives != result.customers else ""
    return f"{result.customers:,} customer{'' if result.customers == 1 else 's'}{positives}"


def _draw_metric(axes: Any, metric: str, results: Sequence[Result]) -> None:
    rows = [row for row, result in enumerate(results) if result.positives]
    values, chance = (np.array([one[metric] for one in found]) for found in
                      ([results[row].values for row in rows], [results[row].chance for row in rows]))  # fmt: skip
    ends = np.array([results[row].intervals[metric] for row in rows])
    colours = ["0.35" if row == len(results) - 1 else colour(row) for row in rows]
    axes.barh(rows, values, color=colours, alpha=0.7)
    # Around the middle of the interval, not around the value, which the interval need not hold.
    axes.errorbar(ends.mean(axis=1), rows, xerr=np.ptp(ends, axis=1) / 2, fmt="none", ecolor="0.15", capsize=4,
                  label="95 % bootstrap interval")  # fmt: skip
    if np.ptp(chance) < 1e-9:
        axes.axvline(chance[0], color="black", linestyle="--", label="chance")
    else:  # each group asks for other products, whose categories are of other sizes
        axes.vlines(chance, np.array(rows) - 0.5, np.array(rows) + 0.5, color="black", linestyle="--", label="chance")
    for row, value, right in zip(rows, values, np.maximum(ends[:, 1], chance), strict=True):
        axes.annotate(f"{value:.3f}", (right, row), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, max(float(ends.max()), float(chance.max())) * 1.18)  # room for the figures


# ---- the loss --------------------------------------------------------------------------------------------------------


def read_losses(run: Path) -> list[dict[str, Any]]:
    """The finished epochs of ``metrics.jsonl``, with their ``step``, ``epoch`` and ``loss``."""
    try:
        lines = [line for line in read_log(run) if line["kind"] == "epoch"]
        found = [
            {"step": int(line["step"]), "epoch": int(line["epoch"]), "loss": float(line["loss"])} for line in lines
        ]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise UserError(f"{run / 'metrics.jsonl'}: missing or damaged; copy it again, or train the run again") from None
    if not found:
        raise UserError(f"{run}: no finished epoch yet; wait for the first, or train on with --resume")
    return found


def loss_figure(epochs: Sequence[dict[str, Any]], passes: int, name: str) -> Any:
    """A matplotlib figure of the training loss by epoch; by step, with passes over the data above, where an epoch makes
    several."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    where = "step" if passes > 1 else "epoch"
    marker = "o" if len(epochs) <= MOST_DOTS else None
    axes.plot([line[where] for line in epochs], [line["loss"] for line in epochs], marker=marker, markersize=4)
    axes.set(xlabel=where, ylabel="training loss (mean of the epoch)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    if passes > 1:
        axes.set_xlim(left=0)  # a single epoch has its steps behind it too
        steps = epochs[0]["step"] / (epochs[0]["epoch"] * passes)  # of a pass
        above = axes.secondary_xaxis("top", functions=(lambda step: step / steps, lambda one: one * steps))
        above.set_xlabel(f"pass over the data ({passes} an epoch)")
        above.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    titled(figure, f"{name}: training loss")
    return figure
