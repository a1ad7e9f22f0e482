"""Pictures of a two-tower run's customers: what is drawn, in which colours, beside which chance; what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fonts import KOREAN, add_korean
from helpers import call, fails, write_config
from matplotlib.colors import to_hex, to_rgba
from matplotlib.text import Text

from jaxrec.data.encode import RawField, RawRows, write_rows
from jaxrec.data.store import file_entry, sealed, staging, write_manifest
from jaxrec.errors import UserError
from jaxrec.personas.embedding import FILLS, embed, embedding_figure, principal
from jaxrec.personas.groups import Groups, colour, customers_by, products_of
from jaxrec.personas.pictures import FILES, distribution_figure, loss_figure, read_losses, results_by, results_figure
from jaxrec.plots.pictures import legible
from jaxrec.run import Run, open_run
from jaxrec.tasks.report import Asked
from jaxrec.tasks.retrieval.judge import answer_split
from jaxrec.tasks.retrieval.pages import Answers

Capsys = pytest.CaptureFixture[str]
PERSONAS = {"Dry_Winter": 20, "$\\alpha$": 12, "_건성_보습": 8}  # customers of each
CATEGORIES = {"Skincare": 6, "크림": 3, "Men": 1}  # products of each


def write_purchases(out: Path) -> Path:
    """Each customer buys one of ten products; the persona is shown, and not read."""
    random = np.random.default_rng(5)
    people = [name for name, count in PERSONAS.items() for _ in range(count)]
    goods = [name for name, count in CATEGORIES.items() for _ in range(count)]
    buyer, bought = np.arange(len(people)), random.integers(0, len(goods), len(people))
    ids, products = [f"user_{n:02}" for n in buyer], [f"product_{n}" for n in range(len(goods))]
    gender, age = random.choice(["F", "M"], len(people)).tolist(), random.integers(20, 60, len(people)).tolist()
    shown = {"customer": ids, "gender": gender, "persona": people}
    raw = RawRows(
        [RawField("customer", "categorical", "user", pa.array(ids), buyer),
         RawField("gender", "categorical", "user", pa.array(gender), buyer),
         RawField("age", "numerical", "user", pa.array(age), buyer),
         RawField("product", "categorical", "item", pa.array(products), bought),
         RawField("category", "categorical", "item", pa.array(goods), bought)],
        np.ones(len(people)), np.zeros(len(people), np.int64), 0.5, 0.0, 1.0, "customer", "product",
        {"user": pa.table(shown), "item": pa.table({"product": products, "category": goods})},
    )  # fmt: skip
    with staging(out) as stage:
        result = write_rows(raw, stage.dataset)
        files = result.pop("files")
        write_manifest(stage.dataset, files, ("fields", "user", "item", "label"), kind="rows", source="test",
                       options={}, **result)  # fmt: skip
    return out


def train(place: Path, dataset: Path, name: str, **sections: Any) -> Path:
    config = write_config(
        place / f"{name}.yaml", dataset,
        data={"validation_fraction": None, "protocol": "in_sample", "fields": ["gender", "age", "product", "category"]},
        model={"name": "two_tower", "layers": None, "embedding_dim": 4, "hidden": [8], "output_dim": 4},
        loss={"name": "triplet", "n_sample": None, "margin": 0.5},
        evaluation={"k": [3, 5], "category": "category"},
        **{"training": {"passes": 3, "metric": "hit_rate@3"}} | sections,
    )  # fmt: skip
    assert call("train", "--config", config, "--run", place / name) == 0
    return place / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("towers")


@pytest.fixture(scope="module")
def towers(place: Path) -> Path:
    """A run of two epochs with three passes each; tests must not change it."""
    return train(place, write_purchases(place / "data"), "towers")


@pytest.fixture(scope="module")
def opened(towers: Path) -> Run:
    return open_run(towers)


@pytest.fixture(scope="module")
def found(opened: Run) -> Answers:
    return answer_split(Asked.of(opened, "test", [3]))


@pytest.fixture(scope="module")
def customers(opened: Run) -> Groups:
    return customers_by(opened, None)


def titles(figure: Any) -> str:
    return str(figure.get_suptitle())


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(capsys: Capsys, towers: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "plots"
    assert call("plots", "personas", towers, "--out", out) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"wrote {out / name}" for name in FILES]
    assert printed.err == ("jaxrec: note: no installed font can show some names: persona 3 is _건성_보습, "
                           "category 2 is 크림\n")  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())


def test_its_options(capsys: Capsys, towers: Path, place: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(place / "data", tmp_path / "moved"))
    (tmp_path / FILES[0]).write_text("an older picture")
    options = ["--by", "gender", "--data", moved, "--k", 5, "--method", "tsne", "--split", "train"]
    assert call("plots", "personas", towers, "--out", tmp_path, *options) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert (tmp_path / FILES[0]).read_bytes().startswith(b"\x89PNG")


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_groups_are_in_the_order_of_their_sizes(customers: Groups) -> None:
    assert customers.names == list(PERSONAS) and customers.counts.tolist() == list(PERSONAS.values())
    assert customers.of[0] == -1 and np.bincount(customers.of[1:]).tolist() == [20, 12, 8]
    assert [label.text for label in customers.labels] == ["Dry_Winter", "$\\alpha$", "persona 3"]


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_the_distribution(customers: Groups) -> None:
    figure = distribution_figure(customers, "towers")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [20, 12, 8]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [to_hex(colour(row)) for row in range(3)]
    assert [text.get_text() for text in axes.texts] == ["20 (50.0%)", "12 (30.0%)", "8 (20.0%)"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Dry_Winter", "$\\alpha$", "persona 3"]
    assert axes.get_xlabel() == "customers" and titles(figure) == "towers: 40 customers by persona"
    assert axes.yaxis_inverted()


def test_results_stand_beside_chance(found: Answers, customers: Groups) -> None:
    results = results_by(found, customers, 3)
    figure = results_figure(results, customers, 3, "towers, test split")
    hit, category = figure.axes
    assert (hit.get_xlabel(), category.get_xlabel()) == ("hit rate@3", "category hit rate@3")
    rows = [customers.of[found.judge.queries.users] == group for group in range(3)] + [np.ones(40, bool)]
    for axes, metric in ((hit, "hit_rate@3"), (category, "category_hit@3")):
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(
            [found.hits[metric][own].mean() for own in rows]
        )
        (segments,) = axes.containers[1].lines[2]
        for (low, _), (high, _), result in zip(*np.moveaxis(segments.get_segments(), 1, 0), results, strict=True):
            assert [low, high] == pytest.approx(result.intervals[metric], abs=1e-12)
    (line,) = (line for line in hit.lines if line.get_label() == "chance")
    assert line.get_xdata() == pytest.approx([0.3, 0.3])  # three of ten products, whoever asks
    # No list of 3 of the 10 products has none of a category of 6, 3 or 1: C(4, 3), C(7, 3) and C(9, 3) of C(10, 3).
    missed = np.array([4, 35, 84]) / 120
    of = {name: 1 - share for name, share in zip(CATEGORIES, missed, strict=True)}
    goods = products_of(open_run(Path(found.dataset.path).parent / "towers"), found)
    wanted = np.array([of[goods.names[goods.of[item]]] for item in found.judge.queries.items])
    (chance,) = (part for part in category.collections if part.get_label() == "chance")
    assert [segment[0][0] for segment in chance.get_segments()] == pytest.approx([wanted[own].mean() for own in rows])
    assert [label.get_text().split("\n")[1] for label in hit.get_yticklabels()] == [
        "20 customers", "12 customers", "8 customers", "40 customers"]  # fmt: skip
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chance", "95 % bootstrap interval"]


def test_a_group_without_positives_has_no_bar(found: Answers, customers: Groups) -> None:
    more = Groups("persona", [*customers.names, "none"], [*customers.labels, legible("none", "none")], customers.of,
                  np.append(customers.counts, 1))  # fmt: skip
    figure = results_figure(results_by(found, more, 3), more, 3, "towers")
    assert len(figure.axes[0].patches) == 4
    assert figure.axes[0].get_yticklabels()[3].get_text() == "none\n0 customers"
    figure.draw_without_rendering()


def test_without_categories_there_is_one_panel(found: Answers, opened: Run, customers: Groups) -> None:
    hits = {"hit_rate@3": found.hits["hit_rate@3"]}
    bare = found._replace(categories=None, hits=hits)
    assert len(results_figure(results_by(bare, customers, 3), customers, 3, "towers").axes) == 1
    assert products_of(opened, bare).names == ["products"]


def test_the_embedding_space(found: Answers, opened: Run, customers: Groups) -> None:
    embedded, products = embed(opened, found), products_of(opened, found)
    figure = embedding_figure(embedded, customers, products, "pca", "towers")
    (axes,) = figure.axes
    drawn = axes.collections
    assert [len(part.get_offsets()) for part in drawn] == [20, 12, 8, 6, 3, 1]
    assert [to_hex(part.get_facecolor()[0]) for part in drawn[:3]] == [to_hex(colour(group)) for group in range(3)]
    assert [tuple(part.get_facecolor()[0]) for part in drawn[3:]] == [to_rgba(fill) for fill in FILLS[:3]]
    points, shares = principal(np.concatenate([embedded.of_customers, embedded.of_products]))
    own = customers.of[1:] == 1
    assert np.asarray(drawn[1].get_offsets()) == pytest.approx(points[:40][own])
    assert axes.get_xlabel() == f"first component ({shares[0]:.1%} of the variance)"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["persona", "Dry_Winter", "$\\alpha$", "persona 3", "", "category", "Skincare", "category 2", "Men"]
    assert titles(figure) == "towers: principal components\n40 customers and 10 products"
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x0 >= axes.get_window_extent().x1


def test_the_vectors_are_those_of_the_split(found: Answers, opened: Run) -> None:
    """In sample every customer has one row, and the fields by customer are those of the row."""
    queries, items = (np.asarray(part) for part in found.judge.vectors(found.weights))
    embedded = embed(opened, found)
    users = found.judge.queries.users
    assert embedded.of_customers[users - 1] == pytest.approx(queries, abs=1e-6)
    assert embedded.of_products == pytest.approx(items[1:], abs=1e-6)


def test_of_many_points_some_are_drawn(
    found: Answers, opened: Run, customers: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxrec.personas.embedding.MOST_CUSTOMERS", 15)
    embedded = embed(opened, found)
    assert len(set(embedded.customers.tolist())) == 15 and embedded.customers.min() >= 1
    assert np.array_equal(embedded.customers, embed(opened, found).customers)
    figure = embedding_figure(embedded, customers, products_of(opened, found), "pca", "towers")
    assert sum(len(part.get_offsets()) for part in figure.axes[0].collections) == 25
    assert titles(figure).endswith("\n15 of 40 customers (at random) and 10 products")


def test_the_loss_by_step_where_an_epoch_makes_several_passes(towers: Path) -> None:
    epochs = read_losses(towers)
    figure = loss_figure(epochs, 3, "towers")
    (axes,) = figure.axes
    (line,) = axes.lines
    assert list(line.get_ydata()) == [epoch["loss"] for epoch in epochs] and len(epochs) == 2
    assert list(line.get_xdata()) == [epoch["step"] for epoch in epochs] and axes.get_xlabel() == "step"
    (above,) = axes.child_axes
    assert above.get_xlabel() == "pass over the data (3 an epoch)"
    figure.draw_without_rendering()
    steps, passes = axes.get_xlim(), above.get_xlim()
    assert np.interp(epochs[-1]["step"], steps, passes) == pytest.approx(6)
    (axes,) = loss_figure(epochs, 1, "towers").axes
    assert axes.get_xlabel() == "epoch" and list(axes.lines[0].get_xdata()) == [1, 2] and not axes.child_axes


def test_pictures_with_a_font_of_the_names(
    capsys: Capsys, opened: Run, found: Answers, towers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_korean(monkeypatch, tmp_path, "".join([*PERSONAS, *CATEGORIES]))
    customers, products = customers_by(opened, None), products_of(opened, found)
    for figure in (
        distribution_figure(customers, "크림"),
        results_figure(results_by(found, customers, 3), customers, 3, "크림"),
        embedding_figure(embed(opened, found), customers, products, "pca", "크림"),
    ):
        figure.canvas.draw()
        assert titles(figure).startswith("크림")
        texts = [text for text in figure.findobj(Text) if text.get_visible() and "건성" in text.get_text()]
        assert texts and all(text.get_fontfamily()[-1] == KOREAN for text in texts)
    assert call("plots", "personas", towers, "--out", tmp_path / "plots") == 0
    assert not capsys.readouterr().err


# ---- bad input -------------------------------------------------------------------------------------------------------


def refused(capsys: Capsys, out: Path, *argv: object, names: str) -> None:
    """The command must fail with one line and leave no folder behind."""
    fails(capsys, "plots", "personas", *argv, "--out", out, names=names)
    assert not out.is_dir()


def test_runs_that_cannot_be_drawn(capsys: Capsys, towers: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "plots"
    refused(capsys, out, run, names="small: a run of gru4rec; name one of two_tower")
    refused(capsys, out, towers, "--by", "gendre", names=r"--by gendre: .*did you mean 'gender'.*are gender, persona")
    refused(capsys, out, towers, "--k", 0, names="--k 0: expected a whole number from 1")
    refused(capsys, out, towers, "--k", 11, names="--k 11: larger than the catalogue of 10 items")
    refused(capsys, out, towers, "--split", "validation", names="the validation split has no positive row")
    (tmp_path / "file").write_text("x")
    fails(capsys, "plots", "personas", towers, "--out", tmp_path / "file" / "a", names="--out .*file is a file")
    (tmp_path / "full" / FILES[2]).mkdir(parents=True)
    fails(capsys, "plots", "personas", towers, "--out", tmp_path / "full", names=f"{FILES[2]} in it is a folder")


def test_a_damaged_or_empty_log(capsys: Capsys, towers: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(towers, tmp_path / "other"))
    (other / "metrics.jsonl").write_text('{"kind": "epoch"}\n')
    refused(capsys, tmp_path / "plots", other, names=r"metrics\.jsonl: missing or damaged")
    (other / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1}) + "\n")
    refused(capsys, tmp_path / "plots", other, names="other: no finished epoch yet")


def test_data_without_personas(capsys: Capsys, towers: Path, tmp_path: Path) -> None:
    plain = Path(shutil.copytree(towers, tmp_path / "plain"))
    keep_columns(plain / "dataset", ["customer", "gender"])
    refused(capsys, tmp_path / "plots", plain, names="plain: its customers have no personas; .* --by by gender")
    refused(capsys, tmp_path / "plots", plain, "--by", "persona", names="--by persona: not known")


def keep_columns(dataset: Path, columns: list[str]) -> None:
    """Leave the others out of users.parquet."""
    file = dataset / "users.parquet"
    pq.write_table(pq.read_table(file).select(columns), file)
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["files"][file.name] = file_entry(file)
    (dataset / "manifest.json").write_text(json.dumps(sealed(manifest)))


def test_t_sne_needs_scikit_learn(
    capsys: Capsys, towers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    refused(
        capsys, tmp_path / "plots", towers, "--method", "tsne", names="--method tsne: needs scikit-learn; pip install"
    )


def test_vectors_that_are_no_numbers(opened: Run, found: Answers) -> None:
    broken = found._replace(weights={**found.weights, "params": _times(found.weights["params"], np.nan)})
    with pytest.raises(UserError, match="its vectors are not finite; train again"):
        embed(opened, broken)


def _times(tree: Any, factor: float) -> Any:
    return {name: _times(value, factor) if isinstance(value, dict) else value * factor for name, value in tree.items()}
