"""Pictures of a two-tower run's customers: what is drawn, beside which chance, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import call, fails
from worlds import Shop, Worlds

from jaxrec.personas import pictures
from jaxrec.personas.pictures import FILES, grouped
from jaxrec.run import open_run, open_run_data
from jaxrec.tasks.report import Asked
from jaxrec.tasks.retrieval.task import answer_split

Capsys = pytest.CaptureFixture[str]
PERSONAS = ["Dry", "Mature", "Normal", "Oily"]  # 56 customers each, in the order of the alphabet


@pytest.fixture(scope="module")
def towers(worlds: Worlds) -> Path:
    return worlds.run("two_tower", evaluation={"category": "category"})


def test_the_command(capsys: Capsys, towers: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "new" / "plots", ["--by", "persona", "--k", 5, "--method", "tsne", "--split", "train"]
    assert call("plots", "personas", towers, "--out", out, *options) == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {out / name}" for name in FILES]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())


def test_groups() -> None:
    groups = grouped("f", [None, 25, 25, None, None, ["a", "b"], 1.5, "n" * 50])
    assert [label.text for label in groups.labels] == ["25", "unknown", "1.5", "['a', 'b']", "n" * 40]
    assert groups.of.tolist() == [-1, 0, 0, 1, 1, 3, 2, 4]
    fewer = grouped("age", [None, *(str(n % 30) for n in range(100))])
    assert len(fewer.labels) == 10 and fewer.labels[-1].text == "21 others" and fewer.of.max() == 9


def test_what_the_pictures_show(towers: Path) -> None:
    run = open_run(towers)
    data = open_run_data(run, run.config.data.path)
    found, customers = answer_split(Asked(run, data, run.config, "test", [3])), pictures.customers_by(run, None)
    (axes,) = pictures.distribution_figure(customers).axes
    assert [bar.get_width() for bar in axes.patches] == [56] * 4
    assert [label.get_text() for label in axes.get_yticklabels()] == PERSONAS
    of = customers.of[found.judge.queries.users]
    rows = [of == group for group in range(4)] + [np.ones(len(of), bool)]
    for axes, metric in zip(pictures.results_figure(found, customers).axes, found.hits, strict=True):
        bars = [bar.get_width() for bar in axes.patches]
        (chance,) = (line for line in axes.lines if line.get_label() == "chance")
        assert axes.get_xlabel().startswith(metric)
        assert bars == pytest.approx([found.hits[metric][own].mean() for own in rows])
        if metric == "hit_rate@3":  # a customer's two other products are no candidates
            assert list(chance.get_xdata()) == pytest.approx([3 / (Shop.items - 2)] * 5)
    few = customers._replace(labels=[*customers.labels, customers.labels[0]])
    assert len(pictures.results_figure(found, few).axes[0].patches) == 5, "a group without positives has no bar"
    figure = pictures.embedding_figure(found, customers, pictures.products_of(run, found), "pca")
    sizes = np.bincount(customers.of[np.unique(found.judge.queries.users)], minlength=4).tolist()
    assert [len(part.get_offsets()) for part in figure.axes[0].collections] == [*sizes, 10, 10, 10, 10]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*PERSONAS, "dry", "mature", "normal", "oily"]
    assert len(pictures.loss_figure(towers).axes[0].lines[0].get_xdata()) == run.config.training.epochs


def test_runs_that_cannot_be_drawn(capsys: Capsys, towers: Path, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(towers, tmp_path / "copy"))
    (copy / "metrics.jsonl").write_text(json.dumps({"kind": "epoch", "epoch": 1}) + "\n")
    for argv, names in (([run], "small: a run of gru4rec; name one of two_tower"),
                        ([towers, "--by", "persna"], r"--by persna: .*did you mean 'persona'"),
                        ([towers, "--k", 41], "--k 41: larger than the catalogue of 40 items"),
                        ([copy], "metrics.jsonl: missing or damaged")):  # fmt: skip
        fails(capsys, "plots", "personas", *argv, "--out", tmp_path / "plots", names=names)
        assert not (tmp_path / "plots").exists()
