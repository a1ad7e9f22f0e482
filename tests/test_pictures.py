"""Pictures: text that no font has, the ticks of curves, and the colours of attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fonts import KOREAN, add_korean
from matplotlib.figure import Figure

from jaxrec.plots.clicks import attention_figure
from jaxrec.plots.curves import learning_curve_figure
from jaxrec.plots.pictures import legible


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


# ---- curves ----------------------------------------------------------------------------------------------------------


def ticks(axis: object) -> list[float]:
    """The ticks that are drawn: those within the limits."""
    low, high = axis.get_view_interval()  # type: ignore[attr-defined]
    return [float(tick) for tick in axis.get_majorticklocs() if low <= tick <= high]  # type: ignore[attr-defined]


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_epochs_are_whole_also_where_there_is_one(epochs: int) -> None:
    lines = [{"kind": "epoch", "epoch": epoch, "loss": 7.0 - epoch} for epoch in range(1, epochs + 1)]
    lines += [{"kind": "validation", "epoch": epoch, "mrr@5": 0.1 * epoch} for epoch in range(1, epochs + 1)]
    axes, right = learning_curve_figure(lines, "mrr@5", "run").axes
    assert ticks(axes.xaxis) == list(range(1, epochs + 1))
    (loss,), (metric,) = axes.lines, right.lines
    # After one epoch both stand in the same place: the dot within the open square.
    assert loss.get_marker() == "o" and metric.get_fillstyle() == "none"
    assert metric.get_markersize() > loss.get_markersize()


# ---- attention -------------------------------------------------------------------------------------------------------


def test_attention_that_is_nearly_even_looks_even() -> None:
    weights = np.full((2, 10, 10), 0.1)
    weights[0, 0, :2] = 0.093, 0.107
    figure = attention_figure([f"field {n}" for n in range(10)], ["value"] * 10, [weights], "why")
    first, _, bar = figure.axes
    (image,) = first.images
    assert image.get_clim() == (0, 0.2)
    low, high = image.to_rgba(np.array([0.093, 0.107]))[:, :3]
    assert np.abs(low - high).max() < 0.1
    assert [text.get_text() for text in first.texts][:3] == [".093", ".107", ".100"]
    assert bar.get_ylim() == (0, 0.2) and list(bar.lines[-1].get_ydata()) == [0.1, 0.1]  # what even would be


def test_attention_that_is_not_even_looks_so() -> None:
    weights = np.zeros((1, 13, 13))
    weights[..., 0], weights[0, 1, :3] = 0.5, (0.9, 0.1, 0.0)
    figure = attention_figure([f"field {n}" for n in range(13)], ["a value that is too long"] * 13, [weights], "why")
    (image,) = figure.axes[0].images
    assert image.get_clim() == (0, 0.9)
    low, high = image.to_rgba(np.array([0.1, 0.9]))[:, :3]
    assert np.abs(low - high).max() > 0.5
    assert not figure.axes[0].texts  # too many fields for numbers
    assert figure.axes[0].get_yticklabels()[0].get_text() == "field 0: a value that is t…"
