"""The customers of an evaluated two-tower run in pictures: python -m jaxrec.plots personas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.codes import read_table
from jaxrec.data.dataset import RowsDataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.errors import UserError
from jaxrec.plots.pictures import save_picture, write, write_ticks
from jaxrec.run import Run, open_run, open_run_data
from jaxrec.tasks.base import load
from jaxrec.tasks.report import Result, file_of, read_results
from jaxrec.tasks.retrieval.task import PERSONA, Judge, item_categories

FILES = ("results_by_persona.png", "embedding_space.png")


def draw_personas(path: Path, out: Path, by: str = PERSONA) -> Iterator[Path]:
    """Draw the two pictures of the run ``path`` into the folder ``out``; each is named once it is written."""
    run, name = open_run(path), path.resolve().name
    if run.config.model.task != "retrieval":
        raise UserError(f"{path}: a run of {run.config.model.name}; name one of two_tower")
    result, table = next(iter(read_results(file_of(path, "test"))), {}), read_table(run, "users.parquet")
    if by not in table.column_names or by not in result.get("groups", {}):
        raise UserError(f"--by {by}: {path} is not evaluated by it; do so with python -m jaxrec.evaluate --run {path} "
                        f"--groups {by}")  # fmt: skip
    dataset = open_run_data(run, run.config.data.path)
    assert isinstance(dataset, RowsDataset)
    dataset.verify()
    groups = np.array([str(value) for value in table[by].to_pylist()])  # of each customer by index
    figures = {
        results_figure(result, by): f"{name}, test split: results by {by}",
        embedding_figure(run, dataset, groups): f"{name}: customers and products",
    }
    out.mkdir(parents=True, exist_ok=True)
    for file, (figure, title) in zip(FILES, figures.items(), strict=True):
        write(figure.suptitle("", fontsize=11), title)
        save_picture(figure, out / file)
        yield out / file


def results_figure(result: Result, by: str) -> Any:
    """A panel for each metric: a bar for each group and all, with its 95 % bootstrap interval, beside chance."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    rows = {**result["groups"][by], "all": result}
    metrics = [name for name in result["intervals"] if all(name in row["intervals"] for row in rows.values())]
    figure = Figure(figsize=(3 + 4.5 * len(metrics), 3 + 0.5 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        values = np.array([row[metric] for row in rows.values()])
        low, high = np.array([row["intervals"][metric] for row in rows.values()]).T
        axes.barh(range(len(rows)), values, xerr=np.maximum([values - low, high - values], 0), alpha=0.7)
        chance = [row["chance"][metric] for row in rows.values()]
        axes.plot(chance, range(len(rows)), "k|", markersize=16, label="chance")
        axes.set_xlabel(f"{metric}, with 95 % bootstrap intervals")
        axes.legend()
    write_ticks(panels[0].yaxis, [f"{name} ({row['targets']:,})" for name, row in rows.items()])
    panels[0].invert_yaxis()
    return figure


def embedding_figure(run: Run, dataset: RowsDataset, groups: np.ndarray) -> Any:
    """Customers of the test split (dots) and products (triangles, by ``evaluation.category``) in two dimensions."""
    from matplotlib.figure import Figure

    data, loaded, field = Retrieval.open(run.config, dataset), load(run), run.config.evaluation.category
    judge = Judge(loaded.model, data, data.splits.test, run.config.evaluation)
    vectors, items = (np.asarray(part) for part in judge.vectors(loaded.weights))
    categories = np.full(data.n_items, "products")
    if field is not None:
        categories = np.array(["unknown", *map(str, dataset.values(field))])[item_categories(dataset, field)]
    users, rows = np.unique(judge.queries.users, return_index=True)
    points = in_two_dimensions(np.concatenate([vectors[rows], items[1:]]))
    figure, drawn, names = Figure(figsize=(9.5, 6.5), layout="constrained"), list[Any](), list[str]()
    axes = figure.subplots()
    for own, place, marker in ((groups[users], points[: len(users)], "o"), (categories[1:], points[len(users) :], "^")):
        for name in np.unique(own).tolist():
            x, y = place[own == name].T
            names.append(name)
            drawn.append(axes.scatter(x, y, s=25, marker=marker, alpha=0.7))
    legend = figure.legend(drawn, [""] * len(drawn), loc="outside right upper")
    for text, name in zip(legend.get_texts(), names, strict=True):
        write(text, name)
    return figure


def in_two_dimensions(vectors: np.ndarray) -> np.ndarray:
    """float[n, 2], two principal components of float[n, D]."""
    if not np.isfinite(vectors).all():
        raise UserError("the vectors are not finite; train again, with a smaller optimizer.learning_rate")
    centred = np.pad(vectors - vectors.mean(axis=0, dtype=np.float64), ((0, 0), (0, 1)))  # D may be 1
    return np.asarray(centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T)
