"""Text in pictures: shown where a font has it, replaced otherwise, and never a box or a warning."""

from __future__ import annotations

from pathlib import Path

import pytest
from fonts import KOREAN, add_korean
from matplotlib.figure import Figure

from jaxrec.pictures import legible
from jaxrec.plots import learning_curve


def drawn(text: str, fallback: str) -> str:
    """What is shown of a text, in a picture that warns of nothing (warnings are errors)."""
    figure = Figure()
    shown = legible(text, fallback)
    shown.on(figure.text(0, 0, ""))
    figure.canvas.draw()
    assert figure.texts[0].get_text() == shown.text
    return shown.text


def test_text_that_no_font_can_show_is_replaced() -> None:
    for text in ("크림", "Cream 크림", "a\tb", "\x00"):
        assert drawn(text, "category 2") == "category 2"
    for text in ("Crème", "two\nlines", "$x", "", "…"):
        assert drawn(text, "category 2") == text


def test_text_that_another_font_can_show_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_korean(monkeypatch, tmp_path, "크림_건성_보습")
    for text in ("크림", "Cream 크림", "_건성_보습"):
        assert drawn(text, "category 2") == text
    assert legible("크림", "x").family[-1] == KOREAN
    assert KOREAN not in legible("Cream", "x").family
    assert drawn("한", "x") == "x"  # not among its letters


def test_a_run_of_any_name_has_a_learning_curve(tmp_path: Path) -> None:
    for name in ("크림", "$x$_크림", "$\\alpha"):
        file = tmp_path / name / "learning_curve.png"
        file.parent.mkdir()
        learning_curve([{"kind": "epoch", "epoch": 1, "loss": 0.5}], "recall@20", file)
        assert file.is_file()
