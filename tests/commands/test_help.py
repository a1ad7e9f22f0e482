"""What --help and mistyped options say, of every command."""

from __future__ import annotations

import importlib
import runpy

import pytest
from helpers import ROOT, fails

from jaxrec import config as configuration
from jaxrec.cli import startup
from jaxrec.cli.help import filled
from jaxrec.config import choices, finding
from jaxrec.config.help import field_help
from jaxrec.errors import UserError
from jaxrec.sources import find_sources

Capsys = pytest.CaptureFixture[str]

COMMANDS: list[tuple[str, ...]] = [
    *((name,) for name in ("train", "evaluate", "recommend", "tune", "plots", "prepare", "text")),
    *(("train", "--model.name", name) for name in finding.models()),
    *(("plots", name) for name in ("curves", "table", "personas")),
    *(("prepare", name) for name in find_sources()),
    ("benchmark",), ("benchmark", "report"),
]  # fmt: skip


def printed(capsys: Capsys, name: str, *words: str) -> str:
    script = str(ROOT / "scripts" / "benchmark.py")
    main = (
        runpy.run_path(script)["main"] if name == "benchmark" else importlib.import_module(startup.module_of(name)).main
    )
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 250])
def test_no_line_of_help_is_too_wide(columns: int, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, *words in COMMANDS:
        text = printed(capsys, name, *words)
        assert text.startswith("usage: ") and max(map(len, text.splitlines())) <= 100, (name, words)


def test_help_fills_prose_and_keeps_lists_and_commands() -> None:
    command = "  python -m jaxrec.train --config configs/a.yaml --run b"
    text = f"one two three\nfour five\n\n{command}\n  name  what it is called"
    assert filled(text, 18).splitlines() == [
        "one two three four", "five", "", command, "  name  what it is", "        called",
    ]  # fmt: skip


@pytest.mark.parametrize("model", finding.models())
def test_a_models_help_lists_what_it_accepts(model: str) -> None:
    """Of all fields those of the model are shown, the others refused, and so are losses that it has not."""
    text = field_help(None, ["--model.name", model])
    accepted = finding.losses_of(finding.models()[model])
    for loss in choices("loss.name"):
        values = {"data": {"path": "d"}, "model": {"name": model}, "loss": {"name": loss}}
        if loss in accepted:
            assert configuration.parse(values).loss.name == loss
        else:
            with pytest.raises(UserError, match=r"loss\.name: found .*, but it belongs to"):
                configuration.parse(values)
    chosen = configuration.override({"data": {"path": "d"}}, ["--model.name", model], "")
    for name, (default, _) in configuration.fields().items():
        shown = f"\n  --{name} [" in text
        assert shown == (name in configuration.fields(type(chosen))), name
        if not shown:
            value = "null" if default is None else str(list(default) if isinstance(default, tuple) else default)
            with pytest.raises(UserError, match=f"{name}: found .*, but it belongs to .*; leave it out for"):
                configuration.override({"data": {"path": "d"}}, ["--model.name", model, f"--{name}", value], "")


def test_help_for_a_file_shows_its_values(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = printed(capsys, "train", "--config", "configs/gru4rec_diginetica.yaml")
    assert "--optimizer.learning_rate [" in text and "Step size at its highest" in text and "--data.path [data/" in text
    assert "--model.embedding [" in text and "One of: cross_entropy, bpr, top1, bpr_max, top1_max." in " ".join(
        text.split()
    )
    assert "--model.window" not in text and "--data.protocol" not in text and "--loss.bpreg" not in text
    wins = printed(capsys, "train", "--config", "configs/narm_diginetica.yaml", "--loss.name", "bpr_max")
    assert "--loss.bpreg [1.0]" in wins
    text = printed(capsys, "train")
    assert all(f"\n  {name} " in text for name in finding.models())
    assert "--training.epochs" not in text, "what is for one model is asked for"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --confg a.yaml", r"error: --confg: no such option \(did you mean --config\?\); see .* --help'$"),
        ("train --training.epochz 3", r"--training\.epochz: no such field \(did you mean --training\.epochs\?\)"),
        ("tune --confg=a.yaml", r"--confg: no such option \(did you mean --config\?\)"),
        ("evaluate --baseline all", r"--baseline: no such option \(did you mean --baselines\?\)"),
        ("recommend --incl", r"--incl: no such option \(did you mean --include-.* or --include-.*\?\)"),
        ("prepare evnts", r"SOURCE: invalid choice: 'evnts' \(did you mean 'events'\?\); choose from diginetica"),
        ("prepare events --sesion a", r"--sesion: no such option \(did you mean --session\?\)"),
        ("plots curves --ot a", r"--ot: no such option \(did you mean --out\?\)"),
        ("evaluate --split tset", r"--split: invalid choice: 'tset' \(did you mean 'test'\?\); choose from train"),
        ("recommend -x", r"-x: no such option; see"),
    ],
)
def test_a_mistyped_option_is_told_the_nearest(words: str, message: str, capsys: Capsys) -> None:
    fails(capsys, *words.split(), names=message)


def test_what_looks_like_an_option_and_is_none(capsys: Capsys) -> None:
    """Negative numbers, and text with spaces behind an option, are values."""
    fails(capsys, "recommend", "--run", "none", "--items", "-5", names="none: no run here")
    fails(capsys, "recommend", "--run", "none", "--where", "--a b", names="none: no run here")
