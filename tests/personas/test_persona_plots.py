"""Pictures of a two-tower run's customers: what is drawn, beside which chance, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import call, fails
from worlds import Shop, Worlds

from jaxrec.personas import pictures
from jaxrec.personas.pictures import FILES, draw_personas

PERSONAS = ["Dry", "Mature", "Normal", "Oily"]  # in the order of the alphabet


@pytest.fixture(scope="module")
def towers(worlds: Worlds) -> Path:
    return worlds.towers()


def test_the_pictures(
    capsys: pytest.CaptureFixture[str], towers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    assert call("plots", "personas", towers, "--out", tmp_path / "new" / "plots") == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {tmp_path / 'new' / 'plots' / name}" for name in FILES]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "new" / "plots").iterdir())
    figures = list[Any]()
    monkeypatch.setattr(pictures, "save_picture", lambda figure, file: figures.append(figure))
    assert len(list(draw_personas(towers, tmp_path))) == 2
    results, embedding = figures
    result = json.loads((towers / "eval-test.json").read_text())
    targets = [result["groups"]["persona"][name]["targets"] for name in PERSONAS]
    labels = [f"{name} ({count})" for name, count in zip(PERSONAS, targets, strict=True)]
    assert [label.get_text() for label in results.axes[0].get_yticklabels()] == [*labels, f"all ({sum(targets)})"]
    rates = [result["groups"]["persona"][name]["hit_rate@3"] for name in PERSONAS]
    assert [bar.get_width() for bar in results.axes[0].patches] == [*rates, result["hit_rate@3"]]
    (chance,) = (line for line in results.axes[0].lines if line.get_label() == "chance")
    assert list(chance.get_xdata()) == pytest.approx([3 / (Shop.items - 2)] * 5)  # two others of each are no candidates
    sizes = [len(part.get_offsets()) for part in embedding.axes[0].collections]
    assert sizes == [*(count // Shop.bought_each for count in targets), *[Shop.items // 4] * 4]
    assert [text.get_text() for text in embedding.legends[0].get_texts()] == [*PERSONAS, *sorted(Shop.skins)]


def test_runs_that_cannot_be_drawn(capsys: pytest.CaptureFixture[str], towers: Path, run: Path, tmp_path: Path) -> None:
    for argv, names in (([run], "small: a run of gru4rec; name one of two_tower"),
                        ([towers, "--by", "persna"], r"--by persna: .* not evaluated by it; do so with .*--groups"),
                        ([towers, "--split", "train"], "not evaluated by it; do so with .*--split train")):  # fmt: skip
        fails(capsys, "plots", "personas", *argv, "--out", tmp_path / "plots", names=names)
        assert not (tmp_path / "plots").exists()
