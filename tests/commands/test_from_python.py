"""Training, evaluation and recommendation from Python, as the README has it: folders and files are plain text."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from helpers import ROOT, SYNTHETIC, call, open_sessions, write_config
from worlds import old_copy

from jaxrec.errors import UserError
from jaxrec.evaluate import evaluate
from jaxrec.train import train


def test_the_readmes_code_runs_and_mistakes_are_one_line() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = dedent(text[text.index("    from jaxrec import ") :].partition("\n\n#")[0])
    names: dict[str, Any] = {}
    with old_copy(), redirect_stdout(io.StringIO()) as printed:
        Path("checkpoints").mkdir()
        for name, old in {"merrec": "merrec", "clicks": "autoint", "two_tower_personas": "two_tower"}.items():
            Path("checkpoints", name).symlink_to(Path("runs", old).resolve())
        write_config(Path("configs/gru4rec_synthetic.yaml"), Path("data/synthetic"))
        assert call("prepare", "synthetic", "--out", "data/synthetic", *SYNTHETIC) == 0
        listing = json.loads(Path("events.json").read_text())[0]["item"]
        exec(code.replace("1578308", str(listing)), names)
        optimum = sum(open_sessions("data/synthetic").manifest["optimum"]["rank_probability"][:20])
        assert 0.5 * optimum < float(printed.getvalue().split()[-1]) <= 1.0
        assert names["config"].training.epochs == 2 and len(names["answer"].items) == 10
        assert len(names["listings"].items) == len(names["ads"].items) == len(names["products"].items) == 3

        given = evaluate("checkpoints/mine", "test", ks=[5])
        assert given["recall@5"] == evaluate(Path("checkpoints/mine"), ks=[5], data="data/synthetic")["recall@5"]
        train("checkpoints/mine/config.yaml", "checkpoints/mine", resume=True)  # to its end already

        with pytest.raises(UserError, match=r"^the run directory: .* holds a NUL character"):
            train("configs/gru4rec_synthetic.yaml", "a\0b")
        with pytest.raises(UserError, match=r"^split: found 'tets' \(did you mean 'test'\?\)"):
            evaluate("checkpoints/mine", "tets")
