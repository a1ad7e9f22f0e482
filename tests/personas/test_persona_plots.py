"""Pictures of a two-tower run's customers: what is drawn, beside which chance, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, fails
from worlds import Shop, Worlds

from jaxrec.errors import UserError
from jaxrec.personas.pictures import (
    FILES,
    customers_by,
    distribution_figure,
    embedding_figure,
    grouped,
    in_two_dimensions,
    loss_figure,
    products_of,
    results_figure,
)
from jaxrec.run import open_run
from jaxrec.tasks.report import Asked
from jaxrec.tasks.retrieval.judge import answer_split
from jaxrec.tasks.retrieval.pages import Answers

Capsys = pytest.CaptureFixture[str]
PERSONAS = ["Dry", "Mature", "Normal", "Oily"]  # 56 customers each, in the order of the alphabet


@pytest.fixture(scope="module")
def towers(worlds: Worlds) -> Path:
    return worlds.run("two_tower", evaluation={"category": "category"})


@pytest.fixture(scope="module")
def found(towers: Path) -> Answers:
    return answer_split(Asked.of(open_run(towers), "test", [3]))


def test_the_command(capsys: Capsys, towers: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "new" / "plots", ["--by", "persona", "--k", 5, "--method", "tsne", "--split", "train"]
    assert call("plots", "personas", towers, "--out", out, *options) == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {out / name}" for name in FILES]
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())


def test_groups(capsys: Capsys) -> None:
    groups = grouped("f", [None, 25.0, 25.0, None, None, ["a", "b"], "x\ny", 1.5, "n" * 50, "크림"], 10)
    assert [label.text for label in groups.labels] == ["25", "unknown", "1.5", "a|b", "n" * 39 + "…", "x y", "f 7"]
    assert groups.of.tolist() == [-1, 0, 0, 1, 1, 3, 5, 2, 4, 6]
    assert "no installed font can show some names: f 7 is 크림" in capsys.readouterr().err
    fewer = grouped("age", [None, *(str(n % 30) for n in range(100))], 12)
    assert len(fewer.labels) == 12 and fewer.labels[-1].text == "19 others" and fewer.of.max() == 11


def test_the_distribution(towers: Path) -> None:
    figure = distribution_figure(customers_by(open_run(towers), None), "towers")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [56] * 4
    assert [text.get_text() for text in axes.texts] == ["56 (25.0%)"] * 4
    assert [label.get_text() for label in axes.get_yticklabels()] == PERSONAS
    assert figure.get_suptitle() == "towers: 224 customers by persona"


def test_results_stand_beside_chance(found: Answers, towers: Path) -> None:
    customers = customers_by(open_run(towers), None)
    hit, category = results_figure(found, customers, "towers, test split").axes
    assert (hit.get_xlabel(), category.get_xlabel()) == ("hit_rate@3", "category_hit@3")
    of = customers.of[found.judge.queries.users]
    rows = [of == group for group in range(4)] + [np.ones(len(of), bool)]
    for axes, metric in ((hit, "hit_rate@3"), (category, "category_hit@3")):
        assert [bar.get_width() for bar in axes.patches] == pytest.approx([found.hits[metric][own].mean()
                                                                           for own in rows])  # fmt: skip
        (chance,) = (part for part in axes.collections if part.get_label() == "chance")
        places = [segment[0][0] for segment in chance.get_segments()]
        if metric == "hit_rate@3":  # a customer's two other products are no candidates
            assert places == pytest.approx([3 / (Shop.items - 2)] * 5)
        assert all(0 < place < 1 for place in places)
        (ends,) = (part for part in axes.collections if part.get_label().startswith("95"))
        for segment, own in zip(ends.get_segments(), rows, strict=True):
            assert segment[0][0] <= found.hits[metric][own].mean() <= segment[1][0]
    few = customers._replace(labels=[*customers.labels, customers.labels[0]])
    assert len(results_figure(found, few, "x").axes[0].patches) == 5, "a group without positives has no bar"


def test_the_embedding_space(found: Answers, towers: Path) -> None:
    run = open_run(towers)
    figure = embedding_figure(found, customers_by(run, None), products_of(run, found), "pca", "towers")
    (axes,) = figure.axes
    users = np.unique(found.judge.queries.users)
    sizes = np.bincount(customers_by(run, None).of[users], minlength=4).tolist()
    assert [len(part.get_offsets()) for part in axes.collections] == [*sizes, 10, 10, 10, 10]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*PERSONAS, "dry", "mature", "normal", "oily"]
    assert figure.get_suptitle() == "towers: 56 of 56 customers and 40 of 40 products"
    bad = {**found.weights, "params": times(found.weights["params"], np.nan)}
    with pytest.raises(UserError, match="its vectors are not finite; train again"):
        embedding_figure(found._replace(weights=bad), customers_by(run, None), products_of(run, found), "pca", "towers")


def times(tree: Any, factor: float) -> Any:
    return {name: times(value, factor) for name, value in tree.items()} if isinstance(tree, dict) else tree * factor


def test_two_dimensions() -> None:
    points, (first, second) = in_two_dimensions(np.outer(np.arange(5.0), [3.0, 4.0, 0.0]), "pca")
    assert (
        np.abs(points[:, 0]) == pytest.approx([10, 5, 0, 5, 10], abs=1e-9) and "100.0%" in first and "(0.0%" in second
    )
    for flat in (np.ones((4, 3)), np.ones((4, 1))):
        assert not in_two_dimensions(flat, "pca")[0].any()
    for n in (2, 3, 7):
        assert np.isfinite(in_two_dimensions(np.eye(n, 5, dtype=np.float32), "tsne")[0]).all()


def test_the_loss() -> None:
    (axes,) = loss_figure({1: 6.5, 2: 5.0}, "towers").axes
    assert [list(data) for data in axes.lines[0].get_data()] == [[1, 2], [6.5, 5.0]]


def test_runs_that_cannot_be_drawn(
    capsys: Capsys, towers: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*argv: object, names: str) -> None:
        fails(capsys, "plots", "personas", *argv, "--out", tmp_path / "plots", names=names)
        assert not (tmp_path / "plots").exists()

    refused(run, names="small: a run of gru4rec; name one of two_tower")
    refused(towers, "--by", "persna", names=r"--by persna: .*did you mean 'persona'")
    refused(towers, "--k", 0, names="--k 0: expected a whole number from 1")
    refused(towers, "--k", 41, names="--k 41: larger than the catalogue of 40 items")
    copy = Path(shutil.copytree(towers, tmp_path / "copy"))
    (copy / "metrics.jsonl").write_text(json.dumps({"kind": "epoch", "epoch": 1}) + "\n")
    refused(copy, names="metrics.jsonl: missing or damaged")
    (copy / "metrics.jsonl").write_text("")
    refused(copy, names="copy: no finished epoch yet")
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    refused(towers, "--method", "tsne", names="--method tsne: needs scikit-learn; pip install")
    (tmp_path / "file").write_text("x")
    fails(capsys, "plots", "personas", towers, "--out", tmp_path / "file", names="file: cannot be written")
