"""The customers of a two-tower run in pictures: python -m jaxrec.plots personas.

The hit rates are worked out here, so no evaluation needs to have run before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.cli.command import say
from jaxrec.data.codes import read_table
from jaxrec.errors import UserError, nearest
from jaxrec.plots.pictures import Shown, legible, save_picture, titled
from jaxrec.run import Run, open_run
from jaxrec.tasks.report import Asked
from jaxrec.tasks.retrieval.hits import expected, intervals, means, take
from jaxrec.tasks.retrieval.judge import answer_split
from jaxrec.tasks.retrieval.pages import PERSONA, Answers
from jaxrec.training.telemetry import read_log

FILES = ("persona_distribution.png", "results_by_persona.png", "embedding_space.png", "loss_curve.png")
MARKERS = "^sDPXvp*"  # of products
MOST_CUSTOMERS, MOST_PRODUCTS = 10, len(MARKERS)  # groups; the smaller ones are taken together
MOST_POINTS = 2000  # of each kind
LETTERS = 40  # of a name
PERPLEXITY = 30.0  # of t-SNE, where there are points enough


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
        split: whose positives the hit rates are of, and whose customers are drawn in the embedding space.
        k: cut-off of the hit rates; None for the first of the run's ``evaluation.k``.
        data: the dataset directory where it is no longer at the configuration's ``data.path``.
    """
    run = open_run(path)
    if run.config.model.task != "retrieval":
        raise UserError(f"{path}: a run of {run.config.model.name}; name one of two_tower")
    k = run.config.evaluation.k[0] if k is None else k
    if k < 1:
        raise UserError(f"--k {k}: expected a whole number from 1")
    customers, losses = customers_by(run, by), read_losses(path)
    found = answer_split(Asked.of(run, split, [k], data))
    name = legible(path.resolve().name, "this run").text
    figures = (
        distribution_figure(customers, name),
        results_figure(found, customers, f"{name}, {split} split ({run.config.data.protocol})"),
        embedding_figure(found, customers, products_of(run, found), method, name),
        loss_figure(losses, name),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, figure in zip(FILES, figures, strict=True):
            save_picture(figure, out / file)
            yield out / file
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); name another folder") from None


# ---- groups ----------------------------------------------------------------------------------------------------------


class Groups(NamedTuple):
    """Customers or products, each in one group; the largest group first."""

    field: str  # what they are grouped by
    labels: list[Shown]  # names of the groups
    of: np.ndarray  # int64[n], the group of each by index; -1 of index 0, the unknown one


def grouped(field: str, values: Sequence[Any], most: int) -> Groups:
    """Groups of what has the same value of a field, by index, at most so many: the smallest are taken together."""
    titles = [_title(value) for value in values[1:]]
    names, codes, counts = np.unique(titles, return_inverse=True, return_counts=True)
    order = np.lexsort((names, -counts))
    shown = [names[place] if len(names[place]) <= LETTERS else names[place][: LETTERS - 1] + "…" for place in order]
    if len(names) > most:
        shown[most - 1 :] = [f"{len(names) - most + 1:,} others"]
    stem = legible(field, "group").text
    labels = [legible(name, f"{stem} {number}") for number, name in enumerate(shown, 1)]
    if replaced := [f"{label.text} is {name}" for label, name in zip(labels, shown, strict=True) if label.text != name]:
        say("note", f"no installed font can show some names: {', '.join(replaced)}")
    return Groups(stem, labels, np.append(-1, np.minimum(np.argsort(order)[codes], most - 1)))


def _title(value: Any) -> str:
    if value is None or value == "":
        return "unknown"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(("|".join(map(str, value)) if isinstance(value, list) else str(value)).split())


def customers_by(run: Run, by: str | None) -> Groups:
    """The customers of a run by a column of users.parquet; None for their personas."""
    table = read_table(run, "users.parquet")
    names = [name for name in table.column_names if name != run.manifest["user"]]
    field = by or PERSONA
    if field not in names:
        raise UserError(f"--by {field}: not known of the customers of {run.path}{nearest(field, names)}; there are "
                        f"{', '.join(names) or 'none'}")  # fmt: skip
    return grouped(field, table[field].to_pylist(), MOST_CUSTOMERS)


def products_of(run: Run, found: Answers) -> Groups:
    """The products of a run by ``evaluation.category``, in one group where it has none."""
    field = run.config.evaluation.category
    if field is None or found.categories is None:
        return grouped("product", ["products"] * found.data.n_items, MOST_PRODUCTS)
    values = [None, *read_table(run, f"vocabulary/{field}.parquet")["value"].to_pylist()]
    return grouped(field, [values[code] for code in found.categories], MOST_PRODUCTS)


# ---- the pictures ----------------------------------------------------------------------------------------------------


def distribution_figure(customers: Groups, name: str) -> Any:
    """A matplotlib figure with a bar for each group: its customers and their share."""
    counts = np.bincount(customers.of[1:], minlength=len(customers.labels))
    figure, (axes,) = _panels(customers.labels, 1)
    bars = axes.barh(range(len(counts)), counts, color=[f"C{row}" for row in range(len(counts))])
    axes.bar_label(bars, [f"{count:,} ({count / counts.sum():.1%})" for count in counts], padding=4)
    axes.set_xlabel("customers")
    titled(figure, f"{name}: {counts.sum():,} customers by {customers.field}")
    return figure


def results_figure(found: Answers, customers: Groups, title: str) -> Any:
    """A matplotlib figure with a panel for each metric, and in it for each group and for all customers a bar, its 95 %
    bootstrap interval and chance.
    """
    asked, had = found.judge.queries, found.judge.had
    chance = expected(np.zeros(found.data.n_items), asked.items, had[asked.users], found.categories,
                      [int(name.split("@")[1]) for name in found.hits if name.startswith("hit_rate")])  # fmt: skip
    of = customers.of[asked.users]
    parts = [*(np.flatnonzero(of == group) for group in range(len(customers.labels))), np.arange(len(of))]
    labels = [Shown(f"{label.text}\n{len(part):,} positives", label.family)
              for label, part in zip([*customers.labels, legible("all", "all")], parts, strict=True)]  # fmt: skip
    rows = np.array([row for row, part in enumerate(parts) if len(part)])
    results = [(take(found.hits, parts[row]), take(chance, parts[row])) for row in rows]
    values, ends, by_chance = ([means(own) for own, _ in results], [intervals(own) for own, _ in results],
                               [means(random) for _, random in results])  # fmt: skip
    figure, panels = _panels(labels, len(found.hits))
    for axes, metric in zip(panels, found.hits, strict=True):
        bars = axes.barh(rows, [one[metric] for one in values], color=[f"C{row}" for row in rows], alpha=0.7)
        axes.bar_label(bars, fmt="%.3f", label_type="center")
        low, high = np.array([one[metric] for one in ends]).T
        axes.hlines(rows, low, high, color="0.15", label="95 % bootstrap interval")
        axes.vlines([one[metric] for one in by_chance], rows - 0.5, rows + 0.5, color="black", linestyle="--",
                    label="chance")  # fmt: skip
        axes.set_xlabel(metric)
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    titled(figure, f"{title}: results by {customers.field}")
    return figure


def _panels(labels: Sequence[Shown], panels: int) -> tuple[Any, list[Any]]:
    """A figure for horizontal bars, the first at the top, and its panels."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    figure = Figure(figsize=(3 + 4.5 * panels, 1.8 + 0.6 * len(labels)), layout="constrained")
    every = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    every[0].set_yticks(range(len(labels)), [label.text for label in labels])
    every[0].set_ylim(len(labels) - 0.4, -0.6)
    for tick, label in zip(every[0].get_yticklabels(), labels, strict=True):
        label.on(tick)
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.25)  # room for the figures
    return figure, every


def embedding_figure(found: Answers, customers: Groups, products: Groups, method: str, name: str) -> Any:
    """A matplotlib figure of the split's customers (dots, coloured by group) and the products (markers by group), of
    random ones where there are many, in two dimensions by ``pca`` or ``tsne``.
    """
    from matplotlib.figure import Figure

    vectors, items = (np.asarray(part) for part in found.judge.vectors(found.weights))
    users, rows = np.unique(found.judge.queries.users, return_index=True)
    goods, random = np.arange(1, len(items)), np.random.default_rng(0)
    who, what = (np.sort(random.permutation(n)[:MOST_POINTS]) for n in (len(users), len(goods)))
    both = np.concatenate([vectors[rows[who]], items[goods[what]]])
    if not np.isfinite(both).all():
        raise UserError(f"{name}: its vectors are not finite; train again, with a smaller optimizer.learning_rate")
    points, ends = in_two_dimensions(both, method)
    figure = Figure(figsize=(9.5, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=ends[0], ylabel=ends[1])
    axes.set_aspect("equal", adjustable="datalim")
    entries = list[tuple[Any, Shown]]()
    for groups, own, place in ((customers, customers.of[users[who]], points[: len(who)]),
                               (products, products.of[goods[what]], points[len(who) :])):  # fmt: skip
        for group, label in enumerate(groups.labels):
            style: dict[str, Any] = {"s": 22, "color": f"C{group}", "alpha": 0.7, "linewidths": 0}
            if groups is products:
                style = {"s": 40, "marker": MARKERS[group], "facecolors": "white", "edgecolors": "black"}
            entries.append((axes.scatter(*place[own == group].T, **style), label))
    legend = figure.legend([one for one, _ in entries], [""] * len(entries), loc="outside right upper", frameon=False)
    for text, (_, label) in zip(legend.get_texts(), entries, strict=True):
        label.on(text)
    titled(figure, f"{name}: {len(who):,} of {len(users):,} customers and {len(what):,} of {len(goods):,} products")
    return figure


def in_two_dimensions(vectors: np.ndarray, method: str) -> tuple[np.ndarray, list[str]]:
    """float[n, 2] from float[n, D]: two principal components, or t-SNE that starts there; and the names of the axes."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    points[:, : len(axes)] = centred @ axes[:2].T
    if method == "pca":
        shares = np.append(sizes, 0)[:2] ** 2 / max(float((sizes**2).sum()), 1e-300)  # all may lie in one point
        return points, [f"{which} component ({share:.1%} of the variance)"
                        for which, share in zip(("first", "second"), shares, strict=True)]  # fmt: skip
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise UserError("--method tsne: needs scikit-learn; pip install 'jaxrec[text]', or take pca") from None
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    start = (points * 1e-4 / max(points[:, 0].std(), 1e-12)).astype(np.float32)
    with threadpool_limits(limits=1):  # several threads wait for each other longer than they work
        points = TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(vectors)
    return points, [f"{which} dimension of t-SNE (perplexity {perplexity:.3g})" for which in ("first", "second")]


def read_losses(run: Path) -> dict[int, float]:
    """The loss of each finished epoch, of ``metrics.jsonl``."""
    try:
        losses = {int(line["epoch"]): float(line["loss"]) for line in read_log(run) if line["kind"] == "epoch"}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{run / 'metrics.jsonl'}: missing or damaged; copy it again, or train the run again") from None
    if not losses:
        raise UserError(f"{run}: no finished epoch yet; wait for the first, or train on with --resume")
    return losses


def loss_figure(losses: dict[int, float], name: str) -> Any:
    """A matplotlib figure of the training loss by epoch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(losses), list(losses.values()), marker="o", markersize=4)
    axes.set(xlabel="epoch", ylabel="training loss (mean of the epoch)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    titled(figure, f"{name}: training loss")
    return figure
