"""Pictures: curves of several runs, customers of two towers, and text that no font has."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from helpers import call, fails
from matplotlib import font_manager
from matplotlib.figure import Figure
from worlds import Shop, Worlds

from jaxrec.personas import pictures
from jaxrec.personas.pictures import FILES, draw_personas
from jaxrec.plots.pictures import draw_curves, labels, read_curves, write
from jaxrec.training.telemetry import read_log

Capsys = pytest.CaptureFixture[str]
KOREAN = "Korean Letters"
HEADS = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}


@pytest.fixture
def clone(run: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes runs of other names out of the trained one; pictures need no checkpoints."""
    leave_out = shutil.ignore_patterns("state", "tensorboard")
    return lambda name: Path(shutil.copytree(run, tmp_path / "runs" / name, ignore=leave_out))


def test_the_command(run: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every format, over an older picture, which stays where the disk is full."""
    capsys.readouterr()
    for suffix, head in HEADS.items():
        out = tmp_path / f"Curves.{suffix.upper()}"
        out.write_text("an older picture")
        assert call("plots", "curves", run, "--out", out) == 0
        assert capsys.readouterr().out == f"wrote {out}\n" and out.read_bytes().startswith(head)

    def full(self: Figure, file: Path, **options: object) -> None:
        file.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    fails(capsys, "plots", "curves", run, "--out", out, names="No space left on device")
    assert out.read_bytes().startswith(head) and not list(tmp_path.glob(".*"))


def test_the_picture_shows_the_log(run: Path) -> None:
    metrics, validation = ["recall@20", "mrr@20"], [line for line in read_log(run) if line["kind"] == "validation"]
    curve = read_curves(run, metrics)
    begun = curve._replace(epochs=curve.epochs[:1], metrics={name: one[:1] for name, one in curve.metrics.items()})
    figure = draw_curves([curve, begun], ["_small", "$other$"], metrics)
    for panel, metric in zip(figure.axes, metrics, strict=True):
        values = [line[metric] for line in validation]
        first, second = panel.lines
        assert panel.get_title() == f"validation {metric}"
        assert list(first.get_xdata()) == [1, 2] and list(first.get_ydata()) == values
        assert list(second.get_xdata()) == [1] and list(second.get_ydata()) == values[:1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["_small", "$other$"]


def test_equal_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert labels([Path("1/a/x"), Path("2/y")]) == ["x", "y"] and labels([Path()]) == [tmp_path.name]
    assert labels([Path("1/a/x"), Path("2/a/x"), Path("y")]) == ["1/a/x", "2/a/x", "y"]


def test_runs_that_are_refused(capsys: Capsys, run: Path, clone: Callable[[str], Path], tmp_path: Path) -> None:
    killed, other, out = clone("killed"), clone("other"), tmp_path / "out.png"
    (killed / "metrics.jsonl").write_bytes(b'{"kind": "validation", "recall@20": 0.1, "mrr@20": 0.1}\n')
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("validation_fraction: 0.1", "validation_fraction: 0.2"))
    for argv, names in ((["--out", tmp_path / "c.jpg", run], r"c\.jpg: found \.jpg; end its name in \.png"),
                        (["--out", out, run, "--metrics", "recal@20"], r"--metrics: .* 'recal@20' .*'recall@20'"),
                        (["--out", out, killed], r"killed/metrics\.jsonl: missing or damaged"),
                        (["--out", out, run, other], r"not comparable, .*validation_fraction \(0\.1")):  # fmt: skip
        fails(capsys, "plots", "curves", *argv, names=names)
        assert not list(tmp_path.glob("*.*"))


# ---- customers of two towers -----------------------------------------------------------------------------------------

PERSONAS = ["Dry", "Mature", "Normal", "Oily"]  # in the order of the alphabet


def test_customers_by_persona(capsys: Capsys, worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    towers = worlds.towers()
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


def test_customers_that_cannot_be_drawn(capsys: Capsys, worlds: Worlds, run: Path, tmp_path: Path) -> None:
    towers = worlds.towers()
    for argv, names in (
        ([run], "small: a run of gru4rec; name one of two_tower"),
        ([towers, "--by", "persna"], r"--by persna: .* not evaluated by it; do so with .*--groups"),
    ):
        fails(capsys, "plots", "personas", *argv, "--out", tmp_path / "plots", names=names)
        assert not (tmp_path / "plots").exists()


# ---- text ------------------------------------------------------------------------------------------------------------


def add_korean(patch: pytest.MonkeyPatch, folder: Path, characters: str) -> None:
    """Let matplotlib know a font with the Hangul among ``characters``, called ``KOREAN``, and one with less of it; each
    draws an A for any letter."""
    patch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    hangul = sorted({letter for letter in characters if letter > "\u1100"})
    for name, letters in (("A Korean Half", hangul[:2]), (KOREAN, hangul)):
        font = TTFont(font_manager.findfont("DejaVu Sans"))
        font["cmap"].tables = [table for table in font["cmap"].tables if table.isUnicode()]
        for table in font["cmap"].tables:
            table.cmap = dict.fromkeys(map(ord, letters), "A")
        for entry in font["name"].names:
            entry.string = name
        font.save(folder / f"{name}.ttf")
        font_manager.fontManager.addfont(folder / f"{name}.ttf")


def drawn(text: str) -> tuple[str, str]:
    """What is shown of a text, and the last of its fonts, in a picture that warns of nothing (warnings are errors)."""
    figure = Figure()
    write(figure.text(0, 0, ""), text)
    figure.canvas.draw()
    return figure.texts[0].get_text(), figure.texts[0].get_fontfamily()[-1]


def test_text_is_shown_where_a_font_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, shown in (("Cream 크림", "Cream ??"), ("a\tb", "a?b"), ("Crème", "Crème"), ("two\nlines", "two\nlines"),
                        ("$x", "$x"), ("", ""), ("…", "…")):  # fmt: skip
        assert drawn(text)[0] == shown
    add_korean(monkeypatch, tmp_path, "크림_건성_보습")
    for text in ("크림", "Cream 크림", "_건성_보습"):
        assert drawn(text) == (text, KOREAN)
    assert drawn("Cream")[1] != KOREAN
    assert drawn("한")[0] == "?"  # not among its letters
