"""Pictures: curves of several runs, learning curves, attention, and text that no font has."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fonts import KOREAN, add_korean
from helpers import call, fails
from matplotlib.figure import Figure

from jaxrec.plots.clicks import attention_figure
from jaxrec.plots.curves import draw_curves, labels, learning_curve_figure, read_curves
from jaxrec.plots.pictures import legible
from jaxrec.training.telemetry import read_log

Capsys = pytest.CaptureFixture[str]
HEADS = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}


@pytest.fixture
def clone(run: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes runs of other names out of the trained one; pictures need no checkpoints."""
    leave_out = shutil.ignore_patterns("state", "tensorboard")
    return lambda name: Path(shutil.copytree(run, tmp_path / "runs" / name, ignore=leave_out))


def edit_log(run: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change the lines of ``metrics.jsonl``, or leave some out."""
    lines = [new for line in read_log(run) if (new := change(line)) is not None]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_command(
    run: Path, clone: Callable[[str], Path], tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every format, over an older picture, which stays where the disk is full."""
    other = clone("odd/$x$_y")
    edit_log(other, lambda line: line | {"recall@20": 0.75} if line["kind"] == "validation" else line)
    capsys.readouterr()
    for suffix, head in HEADS.items():
        out = tmp_path / f"Curves.{suffix.upper()}"
        out.write_text("an older picture")
        assert call("plots", "curves", run, other, "--out", out) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("small: highest of 2 epochs: recall@20 0.")
        assert lines[1].startswith("$x$_y: highest of 2 epochs: recall@20 0.7500 (epoch 1), mrr@20 0.")
        assert lines[2:] == [f"wrote {out}"] and out.read_bytes().startswith(head)

    def full(self: Figure, file: Path, **options: object) -> None:
        file.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    fails(capsys, "plots", "curves", run, "--out", out, names="No space left on device")
    assert out.read_bytes().startswith(head) and not list(tmp_path.glob(".*"))


def test_the_picture_shows_the_log(run: Path, clone: Callable[[str], Path]) -> None:
    other = clone("other")
    edit_log(other, lambda line: None if line.get("epoch") == 2 else line)  # still in its second epoch
    metrics = ["recall@20", "mrr@20"]
    figure = draw_curves([read_curves(path, metrics) for path in (run, other)], ["_small", "$other$"], metrics)
    validation = [line for line in read_log(run) if line["kind"] == "validation"]
    assert [panel.get_title() for panel in figure.axes] == [f"validation {metric}" for metric in metrics]
    for panel, metric in zip(figure.axes, metrics, strict=True):
        values = [line[metric] for line in validation]
        first, ring, second, _ = panel.lines
        assert list(first.get_xdata()) == [1, 2] and list(first.get_ydata()) == values
        assert list(second.get_xdata()) == [1] and list(second.get_ydata()) == values[:1]
        assert list(ring.get_ydata()) == [max(values)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["_small", "$other$"]


def test_many_runs_and_long_names_stay_within_the_picture(run: Path) -> None:
    metrics = ["recall@20", "mrr@20", "recall@5", "mrr@5"]
    names = [f"run{number}_" + "long" * number for number in range(24)]
    figure = draw_curves([read_curves(run, metrics)] * len(names), names, metrics)
    figure.draw_without_rendering()
    box, frame = figure.legends[0].get_window_extent(), figure.bbox
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= frame.x1
    assert all(panel.get_window_extent().y0 > box.y1 for panel in figure.axes)
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[::2]}) == len(names)


def test_equal_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert labels([Path("1/a/x"), Path("2/y")]) == ["x", "y"] and labels([Path()]) == [tmp_path.name]
    assert labels([Path("1/a/x"), Path("2/a/x"), Path("y")]) == ["1/a/x", "2/a/x", "y"]


def test_runs_that_are_refused(capsys: Capsys, run: Path, clone: Callable[[str], Path], tmp_path: Path) -> None:
    def refused(*argv: object, names: str) -> None:
        fails(capsys, "plots", "curves", *argv, "--out", tmp_path / "out.png", names=names)
        assert not list(tmp_path.glob("*out.png*"))

    refused(run, "--metrics", "mrr@20", "recal@20", names=r"--metrics: no 'recal@20' .*'recall@20'")
    killed = clone("killed")
    edit_log(killed, lambda line: None if line["kind"] == "validation" else line)
    refused(run, killed, names="killed: no validation so far.*recall@20")
    (killed / "metrics.jsonl").write_bytes(b'{"kind": "validation", "step": 3}\n')
    refused(killed, names=r"killed/metrics\.jsonl: damaged")
    other = clone("other")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("validation_fraction: 0.1", "validation_fraction: 0.2"))
    refused(run, other, names=r"small and .*/other: not comparable, .*validation_fraction \(0\.1, 0\.2\)")
    for out, names in (("new/c.png", "no directory .*new"), ("c.jpg", r"found \.jpg; end its name in \.png")):
        fails(capsys, "plots", "curves", run, "--out", tmp_path / out, names=f"--out .*{out}: {names}")


@pytest.mark.parametrize("epochs", [1, 5])
def test_learning_curves_have_whole_epochs(epochs: int) -> None:
    lines = [{"kind": "epoch", "epoch": epoch, "loss": 7.0 - epoch} for epoch in range(1, epochs + 1)]
    lines += [{"kind": "validation", "epoch": epoch, "mrr@5": 0.1 * epoch} for epoch in range(1, epochs + 1)]
    axes, right = learning_curve_figure(lines, "mrr@5", "run").axes
    low, high = axes.xaxis.get_view_interval()
    assert [tick for tick in axes.xaxis.get_majorticklocs() if low <= tick <= high] == list(range(1, epochs + 1))
    (loss,), (metric,) = axes.lines, right.lines
    # After one epoch both stand in the same place: the dot within the open square.
    assert loss.get_marker() == "o" and metric.get_fillstyle() == "none"


def test_attention_looks_even_where_it_nearly_is() -> None:
    """The colours of two weights that differ by little, and of two that do not."""
    for low, high, top, alike in ((0.093, 0.107, 0.2, True), (0.1, 0.9, 0.9, False)):
        weights = np.full((2, 10, 10), 0.1)
        weights[0, 0, :2] = low, high
        figure = attention_figure(
            [f"field {n}" for n in range(10)], ["a value that is too long"] * 10, [weights], "why"
        )
        first, _, bar = figure.axes
        (image,) = first.images
        assert image.get_clim() == (0, top)
        ours, theirs = image.to_rgba(np.array([low, high]))[:, :3]
        assert (np.abs(ours - theirs).max() < 0.1) == alike
        assert list(bar.lines[-1].get_ydata()) == [0.1, 0.1]  # what even would be
        assert first.get_yticklabels()[0].get_text() == "field 0: a value that is t…"


# ---- text ------------------------------------------------------------------------------------------------------------


def drawn(text: str, fallback: str) -> str:
    """What is shown of a text, in a picture that warns of nothing (warnings are errors)."""
    figure = Figure()
    shown = legible(text, fallback)
    shown.on(figure.text(0, 0, ""))
    figure.canvas.draw()
    assert figure.texts[0].get_text() == shown.text
    return shown.text


def test_text_is_shown_where_a_font_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("크림", "Cream 크림", "a\tb", "\x00"):
        assert drawn(text, "category 2") == "category 2"
    for text in ("Crème", "two\nlines", "$x", "", "…"):
        assert drawn(text, "category 2") == text
    add_korean(monkeypatch, tmp_path, "크림_건성_보습")
    for text in ("크림", "Cream 크림", "_건성_보습"):
        assert drawn(text, "category 2") == text
    assert legible("크림", "x").family[-1] == KOREAN
    assert KOREAN not in legible("Cream", "x").family
    assert drawn("한", "x") == "x"  # not among its letters
