"""scripts/quickstart.sh: the commands that it leaves the reader with. What it runs itself is not run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from helpers import ROOT

from jaxrec.cli.startup import COMMANDS


def test_the_next_commands_lead_to_the_checkout_and_its_environment(tmp_path: Path) -> None:
    environment = tmp_path / "my env" / "bin"  # a stand-in, whose Python does nothing
    environment.mkdir(parents=True)
    (environment / "python").write_text("#!/bin/sh\n", encoding="utf-8")
    (environment / "python").chmod(0o755)
    (environment / "activate").write_text("echo activated\n", encoding="utf-8")
    variables = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    variables["VENV"] = str(environment.parent)
    script = str(ROOT / "scripts" / "quickstart.sh")
    printed = subprocess.check_output([script], cwd=tmp_path, env=variables, text=True)
    lines = [line.strip() for line in printed.partition("Next\x1b[0m\n")[2].splitlines() if line.startswith("    ")]
    assert len(lines) == 5 and {one.removeprefix("python -m jaxrec.").split()[0] for one in lines[2:]} <= {*COMMANDS}
    shell = ["bash", "-euc", "\n".join([*lines[:2], "pwd -P"])]
    assert subprocess.check_output(shell, cwd=tmp_path, text=True).splitlines() == ["activated", str(ROOT.resolve())]
