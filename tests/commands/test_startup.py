"""What stands before every command: the list of commands, and one line where a package is missing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT

from jaxrec import __main__ as listing
from jaxrec.cli import command as cli
from jaxrec.cli import startup

Capsys = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("absent", "environment", "line"),
    [
        (["duckdb", "optax"], True, "needs optax and duckdb, which are not installed; run source .venv/bin/activate, "
                                    "or pip install optax duckdb"),
        (["numpy"], False, "needs numpy, which is not installed; run pip install numpy"),
        (list(startup.NEEDED), False, "are not installed; run pip install -e . (in the clone of jaxrec)"),
    ],
)  # fmt: skip
def test_missing_packages_are_one_line_and_an_environment_is_pointed_at(
    absent: list[str], environment: bool, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    real = startup.importlib.util.find_spec
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: None if name in absent else real(name))
    monkeypatch.chdir(tmp_path)
    if environment:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "activate").touch()
    for words in (["python", "-m", "jaxrec.train", "--help"], ["python", "-X", "dev", "-mjaxrec.prepare"]):
        with pytest.raises(SystemExit) as caught:
            startup.check(words)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert line in error and error.startswith("jaxrec: error: jaxrec ") and len(error.splitlines()) == 1
    startup.check(["python", "-m", "jaxrec"])  # lists the commands without any
    startup.check(["python", "-m", "pytest"])


def test_a_command_is_listed_runs_by_its_name_and_a_mistyped_one_is_told_the_nearest(capsys: Capsys) -> None:
    assert listing.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  python -m jaxrec\.{name} +\w", out, re.MULTILINE) for name in startup.COMMANDS)
    assert max(map(len, out.splitlines())) <= 100
    assert listing.main(["train", "--confg", "x"]) == 2
    assert "--confg: no such option (did you mean --config?)" in capsys.readouterr().err
    assert listing.main(["evalute"]) == 2
    with pytest.raises(SystemExit):
        startup.check(["python", "-m", "jaxrec.evalute"])
    assert capsys.readouterr().err.count("evalute: no such command (did you mean 'python -m jaxrec") == 2


def test_the_table_of_packages_is_that_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w-]+", one)[0] for one in project["dependencies"]}  # type: ignore[index]
    assert set(startup.NEEDED.values()) == names | {"jaxlib"}


def test_every_command_is_in_the_list() -> None:
    modules = {file for file in (ROOT / "jaxrec").rglob("*.py") if 'if __name__ == "__main__"' in file.read_text()}
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in modules}
    others = {"jaxrec.__main__", "jaxrec.data.text.worker", "jaxrec.benchmarks.peer_worker"}
    assert names - others == {startup.module_of(name) for name in startup.COMMANDS}


def test_a_package_that_is_imported_late_is_told_as_well(capsys: Capsys) -> None:
    def main(argv: object) -> None:
        raise ModuleNotFoundError("No module named 'sklearn.cluster'", name="sklearn.cluster")

    def broken(argv: object) -> None:
        raise ModuleNotFoundError("No module named 'jaxrec.nothing'", name="jaxrec.nothing")

    assert cli.command(main, []) == 2
    assert "jaxrec needs scikit-learn, which is not installed; " in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        cli.command(broken, [])
