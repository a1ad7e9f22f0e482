"""What stands before every command: the list of commands, and one line where a package is missing."""

from __future__ import annotations

import re

import pytest
from helpers import ROOT

from jaxrec import __main__ as listing
from jaxrec.cli import command as cli
from jaxrec.cli import startup

Capsys = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("absent", "line"),
    [(["duckdb", "optax"], "needs optax and duckdb, which are not installed; source .venv/bin/activate, or pip install "
                           "optax duckdb"), (["PyYAML"], "needs PyYAML, which is not installed; "),
     (["jax", "flax", "optax", "rich"], "or pip install -e . (in the clone of jaxrec)")],
)  # fmt: skip
def test_missing_packages_are_one_line(
    absent: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    real = startup._installed
    monkeypatch.setattr(startup, "_installed", lambda name: name not in absent and real(name))
    for words in (["python", "-m", "jaxrec.train", "--help"], ["python", "-X", "dev", "-mjaxrec.prepare"]):
        with pytest.raises(SystemExit) as caught:
            startup.check(words)
        error = capsys.readouterr().err
        assert caught.value.code == 2 and line in error and error.startswith("jaxrec: error: jaxrec needs ")
        assert len(error.splitlines()) == 1
    startup.check(["python", "-m", "jaxrec"])  # lists the commands without any
    startup.check(["python", "-m", "pytest"])


def test_a_command_is_listed_runs_by_its_name_and_a_mistyped_one_is_told_the_nearest(capsys: Capsys) -> None:
    assert listing.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  python -m jaxrec\.{name} +\w", out, re.MULTILINE) for name in startup.COMMANDS)
    assert listing.main(["train", "--confg", "x"]) == listing.main(["evalute"]) == 2
    assert "--confg: no such option (did you mean --config?)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        startup.check(["python", "-m", "jaxrec.evalute"])
    assert "evalute: no such command (did you mean 'python -m jaxrec.evaluate'?)" in capsys.readouterr().err


def test_every_command_is_listed() -> None:
    modules = {file for file in (ROOT / "jaxrec").rglob("*.py") if 'if __name__ == "__main__"' in file.read_text()}
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in modules}
    others = {"jaxrec.__main__", "jaxrec.benchmarks.peer_worker"}
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
