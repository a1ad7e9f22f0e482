"""scripts/quickstart.sh: the commands that it leaves the reader with. What it runs itself is recorded, not run."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT

NEXT = [
    "python -m jaxrec.evaluate --run checkpoints/gru4rec_synthetic --baselines all",
    "python -m jaxrec.recommend --run checkpoints/gru4rec_synthetic --items 3 7 --k 10",
    "python -m jaxrec.prepare events --help",
]


@pytest.mark.parametrize(("active", "elsewhere"), [(False, True), (True, False)])
def test_the_next_commands_hold_where_the_reader_stands(tmp_path: Path, active: bool, elsewhere: bool) -> None:
    environment = tmp_path / "my env"  # a stand-in, whose Python does nothing
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text("#!/bin/sh\n", encoding="utf-8")
    (environment / "bin" / "python").chmod(0o755)
    (environment / "bin" / "activate").write_text("export ACTIVATED=1\n", encoding="utf-8")
    variables = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    variables |= {"VENV": str(environment)} | ({"VIRTUAL_ENV": str(environment)} if active else {})
    folder = tmp_path if elsewhere else ROOT
    words = [str(ROOT / "scripts" / "quickstart.sh")]
    printed = subprocess.run(words, cwd=folder, env=variables, check=True, capture_output=True, text=True).stdout
    after = printed.partition("Next\x1b[0m\n")[2]
    commands = [line.strip() for line in after.splitlines() if line.startswith("    ")]
    expected = ([f"cd {shlex.quote(str(ROOT))}"] if elsewhere else []) + ([] if active else ["source "])
    assert len(commands) == len(expected) + len(NEXT) and commands[-len(NEXT) :] == NEXT
    assert all(command.startswith(start) for command, start in zip(commands, expected, strict=False))
    # A shell that stands in the reader's folder gets to the checkout, with the environment active.
    lines = "\n".join([*commands[: len(expected)], 'pwd -P; echo "${ACTIVATED:-0}"'])
    done = subprocess.run(["bash", "-euc", lines], cwd=folder, check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == [str(ROOT.resolve()), "0" if active else "1"]
