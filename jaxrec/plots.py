"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def learning_curve(lines: list[dict[str, Any]], metric: str, file: Path) -> None:
    """Draw the training loss, and the validation metric where there is one, over epochs.

    Args:
        lines: of ``metrics.jsonl``.
        metric: such as ``recall@20``.
        file: where the PNG goes.
    """
    from matplotlib.figure import Figure  # its own canvas: no display, no global state
    from matplotlib.ticker import MaxNLocator

    epochs = [line for line in lines if line["kind"] == "epoch"]
    validation = [line for line in lines if line["kind"] == "validation"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["epoch"] for line in epochs], [line["loss"] for line in epochs], "o-", color="C0")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color="C0")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if validation:
        right = axes.twinx()
        right.plot([line["epoch"] for line in validation], [line[metric] for line in validation], "s-", color="C1")
        right.set_ylabel(f"validation {metric}", color="C1")
    axes.set_title(file.parent.name)
    figure.savefig(file, dpi=120)
