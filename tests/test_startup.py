"""What stands before every command: the list of commands, and one line where a package is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT

from jaxrec import __main__ as listing
from jaxrec.cli import command as cli
from jaxrec.cli import startup

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in ("duckdb", "optax"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def start(*words: str, cwd: Path, path: str = "") -> tuple[int, str, str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_missing_packages_are_one_line_and_an_environment_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    line = (
        "jaxrec: error: jaxrec needs optax and duckdb, which are not installed; "
        "run source .venv/bin/activate, or pip install optax duckdb\n"
    )
    assert start("-m", "jaxrec.train", "--help", cwd=tmp_path, path=str(tmp_path)) == (2, "", line)
    assert start("-m", "jaxrec", "prepare", cwd=tmp_path, path=str(tmp_path)) == (2, "", line)


def test_the_benchmark_looks_first_as_well(tmp_path: Path) -> None:
    status, out, err = start("-S", str(ROOT / "scripts" / "benchmark.py"), "all", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"jaxrec: error: jaxrec needs jax, jaxlib and 12 more packages, which are not .*\n", err)


def test_a_package_that_lacks_another_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    startup.check_packages()
    error = ModuleNotFoundError("No module named 'numpy.exceptions'", name="numpy.exceptions")
    with pytest.raises(SystemExit) as caught:
        sys.excepthook(type(error), error, None)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("jaxrec: error: jaxrec needs numpy, which is not installed; ")
    bug = ValueError("ours")
    sys.excepthook(type(bug), bug, None)
    assert capsys.readouterr().err == "ValueError: ours\n"


def test_without_any_package_the_commands_are_listed_and_say_what_to_do(tmp_path: Path) -> None:
    status, out, err = start("-S", "-m", "jaxrec", cwd=tmp_path)
    assert (status, err) == (0, "")
    for name in startup.COMMANDS:
        assert re.search(rf"^  python -m jaxrec\.{re.escape(name)} +\w", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 100
    status, out, err = start("-S", "-m", "jaxrec.evaluate", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(
        r"jaxrec: error: jaxrec needs jax, jaxlib and 12 more packages, which are not installed; run pip install -e \. "
        r"\(in the clone of jaxrec\)\n", err
    )  # fmt: skip
    status, out, err = start("-S", "-m", "jaxrec.trian", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert "python -m jaxrec.trian: no such command (did you mean 'python -m jaxrec.train'?)" in err


def test_the_table_of_packages_is_that_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w-]+", one)[0] for one in project["dependencies"]}  # type: ignore[index]
    assert set(startup.NEEDED.values()) == names | {"jaxlib"}


def test_every_command_is_listed() -> None:
    modules = {file for file in (ROOT / "jaxrec").rglob("*.py") if 'if __name__ == "__main__"' in file.read_text()}
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in modules}
    others = {"jaxrec.__main__", "jaxrec.data.text.worker", "jaxrec.benchmarks.peer_worker"}
    assert names - others == {startup.module_of(name) for name in startup.COMMANDS}


def test_a_command_runs_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main(["train", "--confg", "x"]) == 2
    assert "--confg: no such option (did you mean --config?)" in capsys.readouterr().err
    assert listing.main(["evalute"]) == 2
    assert "python -m jaxrec evalute: no such command (did you mean 'python -m jaxrec evaluate'?)" in (
        capsys.readouterr().err
    )
    assert listing.main(["--help"]) == 0
    assert capsys.readouterr().out == listing.listing() + "\n"


def test_what_is_imported_late_is_told_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: object) -> None:
        raise ModuleNotFoundError("No module named 'sklearn.cluster'", name="sklearn.cluster")

    assert cli.command(main, []) == 2
    assert re.match(r"jaxrec: error: jaxrec needs scikit-learn, which is not installed; ", capsys.readouterr().err)

    def broken(argv: object) -> None:
        raise ModuleNotFoundError("No module named 'jaxrec.nothing'", name="jaxrec.nothing")

    with pytest.raises(ModuleNotFoundError):
        cli.command(broken, [])


def test_the_former_name_of_a_command_forwards(tmp_path: Path) -> None:
    status, out, err = start("-m", "jaxrec.data.text", "--help", cwd=tmp_path)
    assert (status, err) == (0, "") and out.startswith("usage: python -m jaxrec.text")
