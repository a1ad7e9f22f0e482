"""The space that both towers map to, in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.retrieval import known, side_counts
from jaxrec.errors import UserError
from jaxrec.models.base import make_tower_model
from jaxrec.personas.groups import COLOURS, Groups, colour
from jaxrec.plots.pictures import Shown, legible, titled
from jaxrec.run import Run
from jaxrec.tasks.retrieval.pages import Answers

MOST_CUSTOMERS, MOST_PRODUCTS = 2000, 1000  # points
PERPLEXITY = 30.0  # of t-SNE, where there are points enough
CROWD = 600  # points; products of more are drawn smaller
MARKERS = "^sDPXvp*"  # of products
FILLS = ("#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3", "#a6d854", "#ffd92f", "#e5c494", "#ffffff")


class Embedded(NamedTuple):
    """Vectors of some customers and products, and their indices: int64[n], float32[n, D], int64[m], float32[m, D]."""

    customers: np.ndarray
    of_customers: np.ndarray
    products: np.ndarray
    of_products: np.ndarray


def embed(run: Run, found: Answers) -> Embedded:
    """The vectors of a run's customers and products, of random ones where there are too many to draw."""
    random, data = np.random.default_rng(0), found.data
    users = _some(data.n_users, MOST_CUSTOMERS, random)
    items = _some(data.n_items, MOST_PRODUCTS, random)
    side, own = data.schema.side("user"), data.fields.side("user")
    wanted = side.columns(tuple(field.name for field in own.coded))
    numbers = [field.name for field in side.numerical]
    chosen = [numbers.index(field.name) for field in own.numerical]
    columns = np.asarray(found.dataset.array("users.npy"))[users][:, wanted]
    columns = known(own, columns, side_counts(data.fields, data.value_counts, "user"))
    floats = np.asarray(found.dataset.array("users_numbers.npy"))[users][:, chosen]
    encode = jax.jit(make_tower_model(run.config, data.schema).encode, static_argnums=0)
    vectors = [
        np.asarray(encode(name, found.weights, *map(jnp.asarray, fields)))
        for name, fields in (("user", (columns, floats)), ("item", [part[items] for part in data.catalogue]))
    ]
    if not all(np.isfinite(part).all() for part in vectors):
        raise UserError(f"{run.path}: its vectors are not finite; train again, with a smaller optimizer.learning_rate")
    return Embedded(users, vectors[0], items, vectors[1])


def _some(n: int, most: int, random: np.random.Generator) -> np.ndarray:
    """int64: all of 1 to n - 1, or as many as ``most`` of them."""
    return np.arange(1, n) if n - 1 <= most else np.sort(random.choice(n - 1, most, replace=False) + 1)


# ---- two dimensions --------------------------------------------------------------------------------------------------


def principal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64[n, 2], two principal components of float[n, D], and float64[2], their shares of the variance."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # either sign would be right
    found = np.zeros((len(vectors), 2))
    found[:, : len(axes)] = centred @ axes.T
    total, shares = float((sizes**2).sum()), np.zeros(2)
    shares[: len(axes)] = sizes[:2] ** 2 / total if total else 0.0  # all in one point
    return found, shares


def tsne() -> tuple[Any, Any]:
    """scikit-learn's class, and what limits its threads."""
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise UserError(
            "--method tsne: needs scikit-learn; pip install 'jaxrec[text]', or choose --method pca"
        ) from None
    return TSNE, threadpool_limits


def neighbourhoods(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """float[n, 2] by t-SNE from float[n, D], and the perplexity that fits so many points."""
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    start = principal(vectors)[0]
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)  # as scikit-learn's own, which fails where all lie in one point
    make, limits = tsne()
    with limits(limits=1):  # several threads wait for each other longer than they work
        found = make(perplexity=perplexity, init=start.astype(np.float32), random_state=0).fit_transform(vectors)
    return found, perplexity


# ---- the picture -----------------------------------------------------------------------------------------------------


def embedding_figure(embedded: Embedded, customers: Groups, products: Groups, method: str, name: str) -> Any:
    """A matplotlib figure of customers (dots, coloured by group) and products (markers by group) in two dimensions.

    Args:
        embedded: of ``embed``.
        method: ``pca`` or ``tsne``.
        name: of the run.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.5), layout="constrained")
    axes = figure.subplots()
    vectors = np.concatenate([embedded.of_customers, embedded.of_products])
    if method == "pca":
        points, shares = principal(vectors)
        ends, what = [f"component ({share:.1%} of the variance)" for share in shares], "principal components"
    else:
        points, perplexity = neighbourhoods(vectors)
        ends, what = ["dimension of t-SNE"] * 2, f"t-SNE (perplexity {perplexity:.3g})"
    axes.set(xlabel=f"first {ends[0]}", ylabel=f"second {ends[1]}")
    axes.set_aspect("equal", adjustable="datalim")
    split = len(embedded.customers)
    who, goods = customers.most(len(COLOURS) + 1), products.most(len(MARKERS))
    dots = [{"marker": "o", "s": 22, "color": colour(g), "alpha": 0.7, "linewidths": 0} for g in range(len(who.names))]
    shapes = [{"marker": shape, "s": 48 if len(vectors) <= CROWD else 24, "color": fill, "edgecolors": "black",
               "linewidths": 0.7} for shape, fill in zip(MARKERS, FILLS, strict=True)]  # fmt: skip
    entries = [
        *_scatter(axes, who, embedded.customers, points[:split], dots),
        (_heading(), legible("", "")),
        *_scatter(axes, goods, embedded.products, points[split:], shapes),
    ]
    _legend(figure, entries)
    people, things = (
        _counted(embedded.customers, customers, "customers"),
        _counted(embedded.products, products, "products"),
    )
    titled(figure, f"{name}: {what}\n{people} and {things}")
    return figure


def _counted(drawn: np.ndarray, groups: Groups, kind: str) -> str:
    total = len(groups.of) - 1
    return f"{total:,} {kind}" if len(drawn) == total else f"{len(drawn):,} of {total:,} {kind} (at random)"


def _scatter(
    axes: Any, groups: Groups, which: np.ndarray, points: np.ndarray, styles: Sequence[dict[str, Any]]
) -> list[tuple[Any, Shown]]:
    """Draw float[n, 2] points of those of ``which``, each group in its style; returns entries of the legend."""
    own = groups.of[which]
    drawn = [axes.scatter(*points[own == group].T, **styles[group]) for group in range(len(groups.names))]
    return [(_heading(), legible(groups.field, "group")), *zip(drawn, groups.labels, strict=True)]


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
