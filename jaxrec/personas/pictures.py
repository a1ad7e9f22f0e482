"""The customers of a two-tower run in pictures: python -m jaxrec.plots personas. No evaluation needs to have run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.codes import read_table
from jaxrec.errors import UserError, nearest
from jaxrec.plots.pictures import Shown, legible, save_picture, titled
from jaxrec.run import Run, open_run, open_run_data
from jaxrec.tasks.report import Asked
from jaxrec.tasks.retrieval.hits import PERSONA, Answers, expected, intervals, means, take
from jaxrec.tasks.retrieval.task import answer_split
from jaxrec.training.telemetry import read_log

FILES = ("persona_distribution.png", "results_by_persona.png", "embedding_space.png", "loss_curve.png")
MOST_GROUPS = 10  # of customers and of products; the smaller ones are taken together
MOST_POINTS = 2000  # of each kind
PERPLEXITY = 30.0  # of t-SNE, where there are points enough


def draw_personas(
    path: Path, out: Path, by: str | None = None, method: str = "pca", split: str = "test", k: int | None = None,
    data: str | None = None,
) -> Iterator[Path]:  # fmt: skip
    """Draw the four pictures of the run ``path`` into the folder ``out``; each is named once it is written. The other
    arguments are options of the command.
    """
    run, name = open_run(path), path.resolve().name
    if run.config.model.task != "retrieval":
        raise UserError(f"{path}: a run of {run.config.model.name}; name one of two_tower")
    if k is not None and k < 1:
        raise UserError(f"--k {k}: expected a whole number from 1")
    customers = customers_by(run, by)
    dataset = open_run_data(run, data or run.config.data.path)
    dataset.verify()
    found = answer_split(Asked(run, dataset, run.config, split, [k or run.config.evaluation.k[0]]))
    figures = {
        distribution_figure(customers): f"{name}: customers by {customers.field}",
        results_figure(found, customers): f"{name}, {split} split: results by {customers.field}",
        embedding_figure(found, customers, products_of(run, found), method): f"{name}: customers and products",
        loss_figure(path): f"{name}: training loss",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, (figure, title) in zip(FILES, figures.items(), strict=True):
            titled(figure, title)
            save_picture(figure, out / file)
            yield out / file
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); name another folder") from None


class Groups(NamedTuple):
    """Customers or products, each in one group; the largest group first."""

    field: str  # what they are grouped by
    labels: list[Shown]  # names of the groups
    of: np.ndarray  # int64[n], the group of each by index; -1 of index 0, the unknown one


def grouped(field: str, values: Sequence[Any]) -> Groups:
    """Groups of what has the same value of a field, by index, at most ``MOST_GROUPS``: the smallest are together."""
    titles = ["unknown" if value in (None, "") else str(value)[:40] for value in values[1:]]
    names, codes, counts = np.unique(titles, return_inverse=True, return_counts=True)
    order = np.lexsort((names, -counts))
    shown = names[order].tolist()
    if len(names) > MOST_GROUPS:
        shown[MOST_GROUPS - 1 :] = [f"{len(names) - MOST_GROUPS + 1:,} others"]
    labels = [legible(name, f"group {number}") for number, name in enumerate(shown, 1)]
    return Groups(field, labels, np.append(-1, np.minimum(np.argsort(order)[codes], MOST_GROUPS - 1)))


def customers_by(run: Run, by: str | None) -> Groups:
    """The customers of a run by a column of users.parquet; None for their personas."""
    table, field = read_table(run, "users.parquet"), by or PERSONA
    names = [name for name in table.column_names if name != run.manifest["user"]]
    if field not in names:
        raise UserError(f"--by {field}: not known of the customers of {run.path}{nearest(field, names)}; there are "
                        f"{', '.join(names) or 'none'}")  # fmt: skip
    return grouped(field, table[field].to_pylist())


def products_of(run: Run, found: Answers) -> Groups:
    """The products of a run by ``evaluation.category``, in one group where it has none."""
    if found.categories is None:
        return grouped("product", ["products"] * found.data.n_items)
    field = str(run.config.evaluation.category)
    values = [None, *read_table(run, f"vocabulary/{field}.parquet")["value"].to_pylist()]
    return grouped(field, [values[code] for code in found.categories])


def _bars(labels: Sequence[Shown], panels: int) -> tuple[Any, list[Any]]:
    """A matplotlib figure of panels for horizontal bars with names, the first at the top."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    figure = Figure(figsize=(3 + 4.5 * panels, 3 + 0.5 * len(labels)), layout="constrained")
    every = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    every[0].set_yticks(range(len(labels)), [label.text for label in labels])
    every[0].set_ylim(len(labels) - 0.4, -0.6)
    for tick, label in zip(every[0].get_yticklabels(), labels, strict=True):
        label.on(tick)
    return figure, every


def distribution_figure(customers: Groups) -> Any:
    """A bar for each group: its customers and their share."""
    counts = np.bincount(customers.of[1:], minlength=len(customers.labels))
    figure, (axes,) = _bars(customers.labels, 1)
    bars = axes.barh(range(len(counts)), counts)
    axes.bar_label(bars, [f"{count:,} ({count / counts.sum():.1%})" for count in counts])
    axes.set_xlabel("customers")
    return figure


def results_figure(found: Answers, customers: Groups) -> Any:
    """A panel for each metric, with a bar for each group and for all, its 95 % bootstrap interval, and chance."""
    asked, ks = found.judge.queries, [int(name.split("@")[1]) for name in found.hits if name.startswith("hit_rate")]
    had = found.judge.had[asked.users]
    chance = expected(np.zeros(found.data.n_items), asked.items, had, found.categories, ks)
    of = customers.of[asked.users]
    parts = [*(np.flatnonzero(of == group) for group in range(len(customers.labels))), np.arange(len(of))]
    rows = [row for row, part in enumerate(parts) if len(part)]
    figure, panels = _bars([*customers.labels, legible("all", "all")], len(found.hits))
    for axes, metric in zip(panels, found.hits, strict=True):
        own = [take(found.hits, parts[row]) for row in rows]
        values, ends = (np.array([one(hits)[metric] for hits in own]).T for one in (means, intervals))
        axes.barh(rows, values, xerr=np.maximum([values - ends[0], ends[1] - values], 0), alpha=0.7)
        axes.plot([means(take(chance, parts[row]))[metric] for row in rows], rows, "k|", markersize=16, label="chance")
        axes.set_xlabel(f"{metric}, with 95 % bootstrap intervals")
        axes.legend()
    return figure


def embedding_figure(found: Answers, customers: Groups, products: Groups, method: str) -> Any:
    """Customers of the split (dots) and products (triangles) by group, random ones where there are many."""
    from matplotlib.figure import Figure

    vectors, items = (np.asarray(part) for part in found.judge.vectors(found.weights))
    users, rows = np.unique(found.judge.queries.users, return_index=True)
    random = np.random.default_rng(0)
    who, what = (np.sort(random.permutation(n)[:MOST_POINTS]) for n in (len(users), len(items) - 1))
    both = np.concatenate([vectors[rows[who]], items[1 + what]])
    if not np.isfinite(both).all():
        raise UserError("the vectors are not finite; train again, with a smaller optimizer.learning_rate")
    points, figure, drawn = in_two_dimensions(both, method), Figure(figsize=(9.5, 6.5), layout="constrained"), []
    axes = figure.subplots()
    for groups, own, place, marker in ((customers, customers.of[users[who]], points[: len(who)], "o"),
                                       (products, products.of[1 + what], points[len(who) :], "^")):  # fmt: skip
        for group in range(len(groups.labels)):
            x, y = place[own == group].T
            drawn.append(axes.scatter(x, y, s=25, marker=marker, alpha=0.7))
    legend = figure.legend(drawn, [""] * len(drawn), loc="outside right upper")
    for text, label in zip(legend.get_texts(), [*customers.labels, *products.labels], strict=True):
        label.on(text)
    return figure


def in_two_dimensions(vectors: np.ndarray, method: str) -> np.ndarray:
    """float[n, 2] from float[n, D]: two principal components, or t-SNE that starts there."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    points = np.zeros((len(vectors), 2))
    points[:, : len(axes)] = centred @ axes[:2].T
    if method == "pca":
        return points
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise UserError("--method tsne: needs scikit-learn; pip install 'jaxrec[text]', or take pca") from None
    start = (points * 1e-4 / max(points[:, 0].std(), 1e-12)).astype(np.float32)
    with threadpool_limits(limits=1):  # several threads wait for each other longer than they work
        perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
        return np.asarray(TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(vectors))


def loss_figure(run: Path) -> Any:
    """The training loss by epoch, as ``metrics.jsonl`` has it."""
    from matplotlib.figure import Figure

    try:
        losses = {int(line["epoch"]): float(line["loss"]) for line in read_log(run) if line["kind"] == "epoch"}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{run / 'metrics.jsonl'}: missing or damaged; copy it again, or train the run again") from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(losses), list(losses.values()), marker="o")
    axes.set(xlabel="epoch", ylabel="training loss (mean of the epoch)")
    return figure
