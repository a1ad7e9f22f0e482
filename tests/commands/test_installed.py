"""What an installed jaxrec has beside its modules: configurations by bare names and the console command; a wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT, fails

import jaxrec
from jaxrec import __main__ as listing
from jaxrec.config import files, load
from jaxrec.tune.__main__ import load_space

Capsys = pytest.CaptureFixture[str]
BROUGHT = sorted(file.stem for file in (ROOT / "configs").glob("*.yaml"))


def test_what_jaxrec_brings_is_found_by_its_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder, with or without .yaml; a file there wins, a folder does not."""
    expected, space = load(ROOT / "configs" / "sessions.yaml"), load_space(ROOT / "configs" / "tune_narm.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sessions").mkdir()
    assert files.names() == BROUGHT and load("sessions") == load("sessions.yaml") == expected
    assert load_space("tune_narm").parameters == space.parameters
    (tmp_path / "sessions.yaml").write_text("data: {path: mine}\n")
    assert load("sessions.yaml").data.path == "mine" and load("sessions") == expected


@pytest.mark.parametrize(("name", "message"), [
    ("sesions", "sesions: no such file, and jaxrec brings no configuration of this name .did you mean 'sessions'"),
    ("sesions.yaml", "sesions.yaml: cannot read the configuration .No such file"),
    ("configs/sesions", "configs/sesions: cannot read the configuration .No such file"),
])  # fmt: skip
def test_what_it_does_not_bring_is_one_line(name: str, message: str, capsys: Capsys) -> None:
    fails(capsys, "train", "--config", name, names=message)


def test_the_console_command_runs_the_others(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/jaxrec", *words])
        try:
            status = listing.main()
        except SystemExit as ended:
            status = int(str(ended.code or 0))
        return status, *capsys.readouterr()

    assert run("--version") == (0, f"jaxrec {jaxrec.__version__}\n", "")
    assert run()[:2] == run("--help")[:2]
    assert all(re.search(rf"^  python -m jaxrec\.{name} +\w", run()[1], re.MULTILINE) for name in listing.COMMANDS)
    status, out, _ = run("evaluate", "--help")
    assert status == 0 and out.startswith("usage: python -m jaxrec.evaluate")
    status, _, error = run("evaluate", "--run", "none")
    assert status == 2 and error.startswith("jaxrec: error: none: no run here")
    assert run("trian")[::2] == (2, "jaxrec: error: no command 'trian' (did you mean 'train'?); there are "
                                    f"{', '.join(listing.COMMANDS)}\n")  # fmt: skip


@pytest.mark.slow
def test_a_wheel_holds_the_configurations_and_the_command(tmp_path: Path) -> None:
    """Built through the source distribution, without a warning of setuptools's own."""
    built = subprocess.run([sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], capture_output=True, text=True,
                           check=False)  # fmt: skip
    assert built.returncode == 0, built.stderr
    said = built.stdout + built.stderr
    assert "Deprecat" not in said and said.count("arning: ") == said.count("byte-compiling is disabled")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 10**6
    with zipfile.ZipFile(wheel) as packed:
        held = packed.namelist()
        assert {Path(name).stem for name in held if name.startswith("jaxrec/configs/")} == set(BROUGHT)
        text = packed.read("jaxrec/configs/sessions.yaml")
        (points,) = [name for name in held if name.endswith("entry_points.txt")]
        assert "jaxrec = jaxrec.__main__:main" in packed.read(points).decode()
    assert text == (ROOT / "configs" / "sessions.yaml").read_bytes() and "jaxrec/py.typed" in held
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "jaxrec").rglob("*.py")}
    assert modules <= set(held)
