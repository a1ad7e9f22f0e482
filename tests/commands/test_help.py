"""What --help and mistyped options say, of every command."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from helpers import ROOT, fails

from jaxrec.cli import startup
from jaxrec.cli.help import filled
from jaxrec.config import finding
from jaxrec.sources import find_sources

Capsys = pytest.CaptureFixture[str]

COMMANDS: list[tuple[str, ...]] = [
    *((name,) for name in startup.COMMANDS),
    *(("train", "--model.name", name) for name in finding.models()),
    *(("plots", name) for name in ("curves", "table", "personas")),
    *(("prepare", name) for name in find_sources()),
    ("benchmark",), ("benchmark", "report"),
]  # fmt: skip


def printed(capsys: Capsys, script: Any, name: str, *words: str) -> str:
    module = script if name == "benchmark" else importlib.import_module(startup.module_of(name))
    with pytest.raises(SystemExit) as caught:
        module.main([*words, "--help"])
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 250])
def test_no_line_of_help_is_too_wide(columns: int, script: Any, capsys: Capsys, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, *words in COMMANDS:
        text = printed(capsys, script, name, *words)
        assert text.startswith("usage: ") and max(map(len, text.splitlines())) <= 100, (name, words)


def test_help_fills_prose_and_keeps_lists_and_commands() -> None:
    command = "  python -m jaxrec.train --config configs/a.yaml --run b"
    text = f"one two three\nfour five\n\n{command}\n  name  what it is called"
    assert filled(text, 18).splitlines() == [
        "one two three four", "five", "", command, "  name  what it is", "      called",
    ]  # fmt: skip


def test_help_for_a_file_shows_its_values(script: Any, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = printed(capsys, script, "train", "--config", "configs/gru4rec_diginetica.yaml")
    assert "--optimizer.learning_rate [" in text and "Step size at its highest" in text and "--data.path [data/" in text
    assert "One of: cross_entropy, bpr, top1, bpr_max, top1_max." in " ".join(text.split())
    assert "--model.window" not in text and "--data.protocol" not in text and "--loss.bpreg" not in text
    wins = printed(capsys, script, "train", "--config", "configs/narm_diginetica.yaml", "--loss.name", "bpr_max")
    assert "--loss.bpreg [1.0]" in wins
    text = printed(capsys, script, "train")
    assert all(f"\n  {name} " in text for name in finding.models())
    assert "--training.epochs" not in text, "what is for one model is asked for"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --confg a.yaml", r"error: --confg: no such option \(did you mean --config\?\); see .* --help'$"),
        ("train --training.epochz 3", r"--training\.epochz: no such field \(did you mean --training\.epochs\?\)"),
        ("recommend --incl", r"--incl: no such option \(did you mean --include-.* or --include-.*\?\)"),
        ("prepare evnts", r"SOURCE: invalid choice: 'evnts' \(did you mean 'events'\?\); choose from diginetica"),
        ("prepare events --sesion a", r"--sesion: no such option \(did you mean --session\?\)"),
        ("recommend -x", r"-x: no such option; see"),
        # negative numbers are values
        ("recommend --run none --items -5", "none: no run here"),
    ],
)
def test_a_mistyped_option_is_told_the_nearest(words: str, message: str, capsys: Capsys) -> None:
    fails(capsys, *words.split(), names=message)
