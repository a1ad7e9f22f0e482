"""Curves of several runs in one picture: what is drawn, how runs are called, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import call, fails
from matplotlib.figure import Figure

from jaxrec.data.store import sealed
from jaxrec.plots.curves import draw_curves, labels, read_curves
from jaxrec.training.telemetry import read_log

Capsys = pytest.CaptureFixture[str]
HEADS = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}


@pytest.fixture
def clone(run: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes runs of other names out of the trained one; pictures need no checkpoints."""

    def make(name: str) -> Path:
        leave_out = shutil.ignore_patterns("state", "tensorboard")
        return Path(shutil.copytree(run, tmp_path / "runs" / name, ignore=leave_out))

    return make


def edit_log(run: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change the lines of ``metrics.jsonl``, or leave some out."""
    lines = [new for line in read_log(run) if (new := change(line)) is not None]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_command(run: Path, clone: Callable[[str], Path], tmp_path: Path, capsys: Capsys) -> None:
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
        assert lines[2:] == [f"wrote {out}"]
        assert out.read_bytes().startswith(head)


def test_the_picture_shows_the_log(run: Path, clone: Callable[[str], Path]) -> None:
    other = clone("other")
    edit_log(other, lambda line: None if line.get("epoch") == 2 else line)  # still in its second epoch
    metrics = ["recall@20", "mrr@20"]
    curves = [read_curves(path, metrics) for path in (run, other)]
    figure = draw_curves(curves, ["_small", "$other$"], metrics)
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
    assert len(figure.axes) == 4
    box, frame = figure.legends[0].get_window_extent(), figure.bbox
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= frame.x1
    assert all(panel.get_window_extent().y0 > box.y1 for panel in figure.axes)
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[::2]}
    assert len(styles) == len(names)


def test_equal_names_get_as_many_parents_as_tell_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert labels([Path("a/x"), Path("b/x"), Path("y")]) == ["a/x", "b/x", "y"]
    assert labels([Path("1/a/x"), Path("2/a/x"), Path("2/b/x/")]) == ["1/a/x", "2/a/x", "b/x"]
    assert labels([Path(".")]) == [tmp_path.name]


def test_runs_that_are_refused(capsys: Capsys, run: Path, clone: Callable[[str], Path], tmp_path: Path) -> None:
    def refused(*argv: object, names: str) -> None:
        fails(capsys, "plots", "curves", *argv, "--out", tmp_path / "out.png", names=names)
        assert not list(tmp_path.glob("*out.png*"))

    refused(run, tmp_path / "none", names="none: no run here")
    refused(run, f"{run}/../{run.name}", names="small: given twice")
    refused(run, "--metrics", "mrr@20", "recal@20", names=r"--metrics: no 'recal@20' .*'recall@20'")
    refused(run, "--metrics", "step", names="--metrics: no 'step'")
    killed = clone("killed")
    edit_log(killed, lambda line: None if line["kind"] == "validation" else line)
    refused(run, killed, names="killed: no validation so far.*recall@20")
    damaged = clone("damaged")
    for text in (b"{\n", b"3\n", b'{"kind": "validation", "step": 3}\n', b"\xff\n"):
        with open(damaged / "metrics.jsonl", "ab") as stream:
            stream.write(text)
        refused(damaged, names=r"damaged/metrics\.jsonl: damaged")
    for section, field, value in (("data", "validation_fraction", 0.2), ("evaluation", "ties", "median")):
        other = clone(f"other_{section}")
        config = yaml.safe_load((other / "config.yaml").read_text())
        config[section][field] = value
        (other / "config.yaml").write_text(yaml.safe_dump(config))
        refused(run, other, names=rf"small and .*/{other.name}: not comparable, .*{section}\.{field} .*{value}")
    other = clone("other_clicks")
    manifest = json.loads((other / "dataset" / "manifest.json").read_text())
    (other / "dataset" / "manifest.json").write_text(json.dumps(sealed(manifest | {"content_hash": "0" * 64})))
    refused(run, other, names="small and .*other_clicks: not comparable, .*the data set")


@pytest.mark.parametrize(("out", "names"), [
    ("new/c.png", "no directory .*new"), ("c.jpg", r"found '\.jpg'"), ("curves", "found a name without suffix"),
    ("folder.png", "a directory"),
])  # fmt: skip
def test_places_where_no_picture_can_be(out: str, names: str, capsys: Capsys, run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    fails(capsys, "plots", "curves", run, "--out", tmp_path / out, names=f"--out .*{out}: {names}")


def test_a_full_disk_leaves_the_older_picture(
    capsys: Capsys, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.svg"
    assert call("plots", "curves", run, "--out", out) == 0
    before = out.read_bytes()

    def full(self: Figure, file: Path, **options: object) -> None:
        file.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    fails(capsys, "plots", "curves", run, "--out", out, names="No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["c.svg"] and out.read_bytes() == before
