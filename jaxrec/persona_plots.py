"""The customers of a two-tower run in pictures: python -m jaxrec.plots personas.

How many there are of each persona, how well each is served beside chance, where customers and products lie in the
space that both towers map to, and the training loss. The hit rates are worked out here, so no evaluation needs to have
run before.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.field_codes import read_table
from jaxrec.data.retrieval import known, side_counts
from jaxrec.data.rows import Schema
from jaxrec.errors import UserError, nearest
from jaxrec.evaluate_retrieval import PERSONA, Evaluation, answer_split
from jaxrec.hits import Hits, expected, intervals, means, take
from jaxrec.models import make_tower_model
from jaxrec.pictures import Shown, legible, save_picture
from jaxrec.rundir import Run, open_run
from jaxrec.telemetry import read_log

FILES = ("persona_distribution.png", "results_by_persona.png", "embedding_space.png", "loss_curve.png")
MOST_BARS = 24  # groups of a picture of bars; the smaller ones are taken together
MOST_CUSTOMERS, MOST_PRODUCTS = 2000, 1000  # points of the embedding space
PERPLEXITY = 30.0  # of t-SNE, where there are points enough
LETTERS = 40  # of a name
COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")  # of customers; C7 is grey
GREY = "0.6"
MARKERS = "^sDPXvp*"  # of products
FILLS = ("#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3", "#a6d854", "#ffd92f", "#e5c494", "#ffffff")


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

    Raises:
        UserError: no two-tower run, nothing to group its customers by, no epoch finished, no such split or cut-off, no
            data set, no folder can be at ``out``, or scikit-learn is missing and asked for.
    """
    run = open_run(path)
    if run.config.model.name != "two_tower":
        raise UserError(f"{path}: a run of {run.config.model.name}; name one of two_tower")
    k = run.config.evaluation.k[0] if k is None else k
    if k < 1:
        raise UserError(f"--k {k}: expected a whole number from 1")
    _check_folder(out)
    if method == "tsne":
        _tsne()
    customers = customers_by(run, by)
    losses = read_losses(path)
    found = answer_split(run, split, [k], data)
    products = products_of(run, found)
    name = legible(path.resolve().name, "this run").text  # in titles: one font for all of it, unless it needs another
    figures = (
        distribution_figure(customers, name),
        results_figure(results_by(found, customers.most(MOST_BARS), k), customers.most(MOST_BARS), k,
                       f"{name}, {split} split ({run.config.data.protocol})"),
        embedding_figure(embed(run, found), customers, products, method, name),
        loss_figure(losses, run.config.training.passes, name),
    )  # fmt: skip
    _tell_replaced(customers, products)
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


# ---- groups ----------------------------------------------------------------------------------------------------------


class Groups(NamedTuple):
    """Customers or products, each in one group; the largest group first.

    Attributes:
        field: what they are grouped by.
        names: as in the data, G.
        labels: the same as they can be shown.
        of: int64[n], the group of each by index; -1 for index 0, the unknown one.
        counts: int64[G].
    """

    field: str
    names: list[str]
    labels: list[Shown]
    of: np.ndarray
    counts: np.ndarray

    def most(self, limit: int) -> Groups:
        """With at most so many groups: the smallest are taken together."""
        if len(self.names) <= limit:
            return self
        rest, kept = f"{len(self.names) - limit + 1:,} others", limit - 1
        counts = np.append(self.counts[:kept], self.counts[kept:].sum())
        labels = [*self.labels[:kept], legible(rest, rest)]
        return Groups(self.field, [*self.names[:kept], rest], labels, np.minimum(self.of, kept), counts)


def grouped(field: str, values: Sequence[Any]) -> Groups:
    """Groups of what has the same value of a field; ``values`` are those by index, and index 0 is none."""
    titles = [_title(value) for value in values[1:]]
    counts = Counter(titles)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    place = {name: number for number, name in enumerate(names)}
    stem = legible(field, "group").text
    labels = [legible(_shortened(name), f"{stem} {number}") for number, name in enumerate(names, 1)]
    of = np.array([-1, *(place[title] for title in titles)])
    return Groups(field, names, labels, of, np.array([counts[name] for name in names], np.int64))


def _title(value: Any) -> str:
    if value is None or value == "":
        return "unknown"
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(("|".join(map(str, value)) if isinstance(value, list) else str(value)).split())


def _shortened(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"


def customers_by(run: Run, by: str | None) -> Groups:
    """The customers of a run by a column of users.parquet; None for their personas.

    Raises:
        UserError: there is no such column.
    """
    shown = read_table(run, "users.parquet")
    names = [name for name in shown.column_names if name != run.manifest["user"]]
    if by is None and PERSONA not in names:
        instead = (
            f"group its customers with --by by {', '.join(names)}" if names else "nor is anything else known of them"
        )
        raise UserError(f"{run.path}: its customers have no personas; {instead}")
    if by is not None and by not in names:
        raise UserError(f"--by {by}: not known of the customers{nearest(by, names)}; there are "
                        f"{', '.join(names) or 'none'}")  # fmt: skip
    return grouped(by or PERSONA, shown[by or PERSONA].to_pylist())


def products_of(run: Run, found: Evaluation) -> Groups:
    """The products of a run by ``evaluation.category``, in one group where it has none."""
    field = run.config.evaluation.category
    if field is None or found.categories is None:
        return grouped("product", [None] + ["products"] * (found.data.n_items - 1))
    values = [None, *read_table(run, f"vocabulary/{field}.parquet")["value"].to_pylist()]
    return grouped(field, [values[code] for code in found.categories])


def _tell_replaced(*groups: Groups) -> None:
    """Say on stderr what stands for names that no installed font can show."""
    pairs = [(label.text, name) for group in groups for name, label in zip(group.names, group.labels, strict=True)]
    replaced = [f"{text} is {name}" for text, name in pairs if text != _shortened(name)]
    if replaced:
        print(f"jaxrec: note: no installed font can show some names: {', '.join(replaced)}", file=sys.stderr)


def _colour(group: int) -> str:
    return COLOURS[group] if group < len(COLOURS) else GREY


# ---- how many of each ------------------------------------------------------------------------------------------------


def distribution_figure(customers: Groups, name: str) -> Any:
    """A matplotlib figure with a bar for each group: its customers and their share."""
    groups, total = customers.most(MOST_BARS), int(customers.counts.sum())
    figure, (axes,) = _bars(groups.labels, 1)
    axes.barh(range(len(groups.names)), groups.counts, color=[_colour(g) for g in range(len(groups.names))])
    for row, count in enumerate(groups.counts):
        axes.annotate(f"{count:,} ({count / total:.1%})", (count, row), (4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, groups.counts.max() * 1.25)  # room for the figures
    axes.set_xlabel("customers")
    _titled(figure, f"{name}: {total:,} customers by {groups.field}")
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
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    return figure, every


def _titled(figure: Any, title: str) -> None:
    legible(title, "").on(figure.suptitle(title, fontsize=11))


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


def results_by(found: Evaluation, customers: Groups, k: int) -> list[Result]:
    """The results of each group, and behind them those of all customers."""
    asked, had = found.evaluator.queries, found.evaluator.had
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
    _titled(figure, f"{title}: results by {customers.field}")
    return figure


def _counted(result: Result) -> str:
    positives = f", {result.positives:,} positives" if result.positives != result.customers else ""
    return f"{result.customers:,} customer{'' if result.customers == 1 else 's'}{positives}"


def _draw_metric(axes: Any, metric: str, results: Sequence[Result]) -> None:
    rows = [row for row, result in enumerate(results) if result.positives]
    values, chance = (np.array([one[metric] for one in found]) for found in
                      ([results[row].values for row in rows], [results[row].chance for row in rows]))  # fmt: skip
    ends = np.array([results[row].intervals[metric] for row in rows])
    colours = ["0.35" if row == len(results) - 1 else _colour(row) for row in rows]
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


# ---- where customers and products lie --------------------------------------------------------------------------------


class Embedded(NamedTuple):
    """Vectors of some customers and products, and their indices: int64[n], float32[n, D], int64[m], float32[m, D]."""

    customers: np.ndarray
    of_customers: np.ndarray
    products: np.ndarray
    of_products: np.ndarray


def embed(run: Run, found: Evaluation) -> Embedded:
    """The vectors of a run's customers and products, of random ones where there are too many to draw."""
    random = np.random.default_rng(0)
    users, items = (np.arange(1, n) if n - 1 <= most else np.sort(random.choice(n - 1, most, replace=False) + 1)
                    for n, most in ((found.data.n_users, MOST_CUSTOMERS), (found.data.n_items, MOST_PRODUCTS)))  # fmt: skip
    side, own = found.data.schema.side("user"), found.data.fields.side("user")
    wanted = side.columns(tuple(field.name for field in own.coded))
    numbers = [field.name for field in side.numerical]
    chosen = [numbers.index(field.name) for field in own.numerical]
    counts = side_counts(found.data.fields, found.data.value_counts, "user")
    columns = known(own, np.asarray(found.dataset.array("users.npy"))[users][:, wanted], counts)
    floats = np.asarray(found.dataset.array("users_numbers.npy"))[users][:, chosen]
    model = make_tower_model(run.config, Schema.from_manifest(run.manifest))
    encode = jax.jit(model.encode, static_argnums=0)
    catalogue = [part[items] for part in found.data.catalogue]
    of_users, of_items = (np.asarray(encode(name, found.weights, *map(jnp.asarray, fields)))
                          for name, fields in (("user", (columns, floats)), ("item", catalogue)))  # fmt: skip
    return Embedded(users, of_users, items, of_items)


def principal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64[n, 2], the first two principal components of float[n, D], and float64[2], their shares of the variance."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = (
        axes[:2] * np.sign(axes[np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    )  # one of two signs
    found = np.zeros((len(vectors), 2))
    found[:, : len(axes)] = centred @ axes.T
    total, shares = float((sizes**2).sum()), np.zeros(2)
    shares[: len(axes)] = sizes[:2] ** 2 / total if total else 0.0  # all in one point
    return found, shares


def _tsne() -> Any:
    """scikit-learn's class.

    Raises:
        UserError: it is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise UserError(
            "--method tsne: needs scikit-learn; pip install 'jaxrec[text]', or choose --method pca"
        ) from None
    return TSNE


def neighbourhoods(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """float[n, 2] by t-SNE from float[n, D], and the perplexity that fits so many points."""
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    start = principal(vectors)[0]
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)  # as scikit-learn's own, which fails where all lie in one point
    found = _tsne()(perplexity=perplexity, init=start.astype(np.float32), random_state=0).fit_transform(vectors)
    return found, perplexity


def embedding_figure(embedded: Embedded, customers: Groups, products: Groups, method: str, name: str) -> Any:
    """A matplotlib figure of customers (dots, coloured by group) and products (markers by group) in two dimensions.

    Args:
        embedded: of ``embed``.
        method: ``pca`` or ``tsne``.
    """
    from matplotlib.figure import Figure

    vectors = np.concatenate([embedded.of_customers, embedded.of_products])
    figure = Figure(figsize=(9.5, 6.5), layout="constrained")
    axes = figure.subplots()
    if method == "pca":
        points, shares = principal(vectors)
        words = [f"{place} component ({share:.1%} of the variance)"
                 for place, share in zip(("first", "second"), shares, strict=True)]  # fmt: skip
        axes.set(xlabel=words[0], ylabel=words[1])
        what = "principal components"
    else:
        points, perplexity = neighbourhoods(vectors)
        axes.set(xlabel="t-SNE, first dimension", ylabel="t-SNE, second dimension")
        what = f"t-SNE (perplexity {perplexity:.3g})"
    axes.set_aspect("equal", adjustable="datalim")
    split = len(embedded.customers)
    who, goods = customers.most(len(COLOURS) + 1), products.most(len(MARKERS))
    entries = [(_heading(), legible(who.field, "customers"))]
    entries += _scatter(axes, points[:split], who.of[embedded.customers], who.labels, [
        {"marker": "o", "s": 18, "color": _colour(group), "alpha": 0.7, "linewidths": 0} for group in range(len(who.names))
    ])  # fmt: skip
    entries += [(_heading(), legible("", "")), (_heading(), legible(goods.field, "products"))]
    entries += _scatter(axes, points[split:], goods.of[embedded.products], goods.labels, [
        {"marker": MARKERS[group], "s": 48, "color": FILLS[group], "edgecolors": "black", "linewidths": 0.8}
        for group in range(len(goods.names))
    ])  # fmt: skip
    _legend(figure, entries)
    counts = [_some(len(drawn), len(groups.of) - 1, kind) for drawn, groups, kind in (
        (embedded.customers, customers, "customers"), (embedded.products, products, "products"))]  # fmt: skip
    sampled = ", drawn at random" if len(vectors) < len(customers.of) + len(products.of) - 2 else ""
    _titled(figure, f"{name}: {what}\n{' and '.join(counts)}{sampled}")
    return figure


def _some(drawn: int, total: int, kind: str) -> str:
    return f"{total:,} {kind}" if drawn == total else f"{drawn:,} of {total:,} {kind}"


def _scatter(
    axes: Any, points: np.ndarray, groups: np.ndarray, labels: Sequence[Shown], styles: Sequence[dict[str, Any]]
) -> list[tuple[Any, Shown]]:
    """Draw the points of each group in its style; their entries of the legend."""
    return [(axes.scatter(*points[groups == group].T, **style), label)
            for group, (label, style) in enumerate(zip(labels, styles, strict=True))]  # fmt: skip


def _heading() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none")


def _legend(figure: Any, entries: Sequence[tuple[Any, Shown]]) -> None:
    """Beside the points, never on them."""
    legend = figure.legend(
        [handle for handle, _ in entries], [""] * len(entries), loc="outside right upper", frameon=False
    )
    for text, (handle, label) in zip(legend.get_texts(), entries, strict=True):
        label.on(text)
        if not hasattr(handle, "get_offsets"):  # a heading
            text.set_fontweight("bold")


# ---- the loss --------------------------------------------------------------------------------------------------------


def read_losses(run: Path) -> list[dict[str, Any]]:
    """The finished epochs of ``metrics.jsonl``, with their ``step``, ``epoch`` and ``loss``.

    Raises:
        UserError: it is missing or damaged, or no epoch is finished.
    """
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
    axes.plot([line[where] for line in epochs], [line["loss"] for line in epochs], "o-", markersize=4, color="C0")
    axes.set(xlabel=where, ylabel="training loss (mean of the epoch)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    if passes > 1:
        steps = epochs[0]["step"] / (epochs[0]["epoch"] * passes)  # of a pass
        above = axes.secondary_xaxis("top", functions=(lambda step: step / steps, lambda one: one * steps))
        above.set_xlabel(f"pass over the data ({passes} an epoch)")
        above.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _titled(figure, f"{name}: training loss")
    return figure
