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
from helpers import call, fails, run_process
from matplotlib.figure import Figure

from jaxrec.data.store import sealed
from jaxrec.plots.__main__ import draw_curves, labels, read_curves
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


def edit_config(run: Path, section: str, **fields: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[section] |= fields
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def without_validation(line: dict[str, Any]) -> dict[str, Any] | None:
    return None if line["kind"] == "validation" else line


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_as_a_process(run: Path, clone: Callable[[str], Path], tmp_path: Path) -> None:
    other = clone("odd/$x$_y")
    edit_log(other, lambda line: line | {"recall@20": 0.75} if line["kind"] == "validation" else line)
    out = tmp_path / "curves.png"
    status, printed, err = run_process("plots", "curves", run, other, "--out", out)
    assert (status, err) == (0, "")
    lines = printed.splitlines()
    assert lines[0].startswith("small: highest of 2 epochs: recall@20 0.")
    assert lines[1].startswith("$x$_y: highest of 2 epochs: recall@20 0.7500 (epoch 1), mrr@20 0.")
    assert lines[2:] == [f"wrote {out}"]
    assert out.read_bytes().startswith(HEADS["png"])


def test_help(capsys: Capsys) -> None:
    with pytest.raises(SystemExit):
        call("plots", "curves", "--help")
    assert "--data.validation_fraction" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", HEADS)
def test_every_format(run: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"Curves.{suffix.upper()}"
    out.write_text("an older picture")
    assert call("plots", "curves", run, "--out", out, "--metrics", "mrr@5", "ndcg@20", "hit_rate@5", "mrr@20") == 0
    assert out.read_bytes().startswith(HEADS[suffix])
    assert list(tmp_path.iterdir()) == [out]


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
    (tmp_path / "z").mkdir()
    monkeypatch.chdir(tmp_path / "z")
    assert labels([Path(".")]) == ["z"]


# ---- bad input -------------------------------------------------------------------------------------------------------


def refused(capsys: Capsys, tmp_path: Path, *argv: object, names: str) -> str:
    """The command must fail with one line and leave no picture behind."""
    line = fails(capsys, "plots", "curves", *argv, "--out", tmp_path / "out.png", names=names)
    assert not list(tmp_path.glob("*out.png*"))
    return line


def test_runs_that_cannot_be_drawn(capsys: Capsys, run: Path, clone: Callable[[str], Path], tmp_path: Path) -> None:
    refused(capsys, tmp_path, run, tmp_path / "none", names=r"none: no run here \(no config\.yaml\)")
    refused(capsys, tmp_path, run, f"{run}/../{run.name}", names=r"small: given twice; name each run once")
    begun = clone("begun")
    waits = "begun: no finished epoch yet; wait for the first, or train on with --resume"
    edit_log(begun, lambda line: line if line["kind"] == "train" else None)
    refused(capsys, tmp_path, run, begun, names=waits)
    (begun / "metrics.jsonl").unlink()
    refused(capsys, tmp_path, begun, names=waits)
    killed = clone("killed")
    edit_log(killed, without_validation)
    refused(capsys, tmp_path, killed, names="killed: its first validation is not finished; wait for it, or train on")
    edit_config(killed, "data", validation_fraction=0.0)
    unvalidated = "killed: trained without validation, so there is no mrr@5 by epoch; .*--data.validation_fraction 0.05"
    refused(capsys, tmp_path, killed, "--metrics", "mrr@5", names=unvalidated)


@pytest.mark.parametrize("text", [b"{\n", b"3\n", b"{}\n", b'{"kind": "validation", "step": 3}\n', b"\xff\n"])
def test_a_damaged_log(capsys: Capsys, clone: Callable[[str], Path], tmp_path: Path, text: bytes) -> None:
    other = clone("other")
    with open(other / "metrics.jsonl", "ab") as stream:
        stream.write(text)
    refused(capsys, tmp_path, other, names=r"other/metrics\.jsonl: damaged; copy it again, or train the run again")


def test_metrics_that_are_not_in_the_log(capsys: Capsys, run: Path, tmp_path: Path) -> None:
    there = r"it has recall@5, mrr@5, ndcg@5, hit_rate@5, recall@20, mrr@20, ndcg@20, hit_rate@20$"
    names = r"--metrics: no 'recal@20' in .*small/metrics\.jsonl \(did you mean 'recall@20'\?\); " + there
    refused(capsys, tmp_path, run, "--metrics", "mrr@20", "recal@20", names=names)
    for name in ("step", "epoch", "kind"):
        refused(capsys, tmp_path, run, "--metrics", name, names=f"no '{name}' in .*; {there}")
    refused(capsys, tmp_path, run, "--metrics", names="--metrics: expected at least one argument")


def test_runs_that_cannot_be_compared(capsys: Capsys, run: Path, clone: Callable[[str], Path], tmp_path: Path) -> None:
    for section, field, old, new in (
        ("data", "validation_fraction", 0.1, 0.2),
        ("evaluation", "ties", "conservative", "median"),
    ):
        other = clone(f"other_{section}")
        edit_config(other, section, **{field: new})
        names = rf"small and .*/{other.name}: not comparable, {section}\.{field} is {old} in the one and {new} in the"
        refused(capsys, tmp_path, run, other, names=names)
    other = clone("other_clicks")
    manifest = json.loads((other / "dataset" / "manifest.json").read_text())
    (other / "dataset" / "manifest.json").write_text(json.dumps(sealed(manifest | {"content_hash": "0" * 64})))
    names = "small and .*other_clicks: not comparable, they were trained on different data sets"
    refused(capsys, tmp_path, run, clone("same"), other, names=names)


def test_places_where_no_picture_can_be(capsys: Capsys, run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("x")
    for out, names in (
        ("new/c.png", "--out .*c.png: no directory .*new; make it first, or choose another place"),
        ("file/c.png", "--out .*c.png: no directory .*file; make it first"),
        ("c.jpg", r"--out .*c\.jpg: found '\.jpg'; end it in \.png, \.pdf, \.svg"),
        ("curves", r"--out .*curves: found a name without suffix; end it in \.png"),
        ("folder.png", r"--out .*folder\.png: a directory; name a file in it"),
    ):
        fails(capsys, "plots", "curves", run, "--out", tmp_path / out, names=names)
    fails(capsys, "plots", "curves", run, names="required: --out; see 'python -m jaxrec.plots curves --help'")
    fails(capsys, "plots", "curves", "--out", tmp_path / "c.png", names="required: RUN")
    fails(capsys, "plots", names="required: PICTURE; see 'python -m jaxrec.plots --help'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


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
