"""What stands before every command: --help, mistyped options, missing packages and old imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, fails

from jaxrec import config as configuration
from jaxrec import gone
from jaxrec.cli.command import command
from jaxrec.cli.startup import COMMANDS, module_of
from jaxrec.sources import find_sources

Capsys = pytest.CaptureFixture[str]


def printed(capsys: Capsys, script: Any, name: str, *words: str) -> str:
    module = script if name == "benchmark" else importlib.import_module(module_of(name))
    with pytest.raises(SystemExit) as caught:
        module.main([*words, "--help"])
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


def test_no_line_of_help_is_too_wide(script: Any, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = [*((name,) for name in COMMANDS), *(("train", "--model.name", name) for name in configuration.models()),
                *(("plots", name) for name in ("curves", "personas")), ("benchmark",),
                *(("prepare", name) for name in find_sources())]  # fmt: skip
    for name, *words in commands:
        text = printed(capsys, script, name, *words)
        assert text.startswith("usage: ") and max(map(len, text.splitlines())) <= 100, (name, words)


@pytest.mark.parametrize(("words", "message"), [
    ("train --training.epochz 3", r"--training\.epochz: no such option \(did you mean 'training\.epochs'\?\)"),
    ("recommend --run a --itms 3", r"unrecognized arguments: --itms 3 \(did you mean '--items'\?\); see .*--help'$"),
    ("prepare evnts", r"SOURCE: invalid choice: 'evnts' \(choose from 'bars', 'diginetica'"),
    ("recommend --run none --items -5", "none: no run here"),  # negative numbers are values
])  # fmt: skip
def test_a_mistyped_option_is_one_line(words: str, message: str, capsys: Capsys) -> None:
    fails(capsys, *words.split(), names=message)


def test_a_missing_package_is_one_line(tmp_path: Path, capsys: Capsys) -> None:
    def late(argv: object) -> None:
        raise ModuleNotFoundError("No module named 'sklearn.cluster'", name="sklearn.cluster")

    assert command(late, []) == 2
    assert "jaxrec needs scikit-learn, which is not installed; " in capsys.readouterr().err
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['yaml'] = None")
    ended = subprocess.run([sys.executable, "-m", "jaxrec.train"], capture_output=True, text=True, check=False,
                           env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})  # fmt: skip
    assert ended.returncode == 2 and ended.stderr.startswith("jaxrec: error: jaxrec needs PyYAML, which is not inst")


@pytest.mark.parametrize(("old", "new"), (gone.MOVED | gone.RENAMED).items())
def test_an_import_of_what_is_gone_names_its_new_place(old: str, new: str) -> None:
    with pytest.raises(ImportError, match=f"^{old} is gone; its place is {new} .*$"):
        exec(f"import {old}" if old in gone.MOVED else "from {} import {}".format(*old.rsplit(".", 1)))
    module, name = (new, "__name__") if old in gone.MOVED else new.rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name)
