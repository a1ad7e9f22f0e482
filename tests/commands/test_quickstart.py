"""scripts/quickstart.sh: the commands that it leaves the reader with. What it runs itself is not run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT

from jaxrec.cli.startup import COMMANDS


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
    script = str(ROOT / "scripts" / "quickstart.sh")
    printed = subprocess.run([script], cwd=folder, env=variables, check=True, capture_output=True, text=True).stdout
    lines = [line.strip() for line in printed.partition("Next\x1b[0m\n")[2].splitlines() if line.startswith("    ")]
    before, commands = lines[: elsewhere + (not active)], lines[elsewhere + (not active) :]
    assert len(commands) == 3 and {one.removeprefix("python -m jaxrec.").split()[0] for one in commands} <= {*COMMANDS}
    # A shell that stands in the reader's folder gets to the checkout, with the environment active.
    text = "\n".join([*before, 'pwd -P; echo "${ACTIVATED:-0}"'])
    done = subprocess.run(["bash", "-euc", text], cwd=folder, check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == [str(ROOT.resolve()), "0" if active else "1"]
