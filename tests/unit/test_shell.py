"""What people type and write: YAML and JSON read as written or refused in one line, messages; locks and progress."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jaxrec.cli import command as shell
from jaxrec.cli.command import as_json, command, pairs, progress, say, tell
from jaxrec.cli.lock import lock_file, owned
from jaxrec.cli.text import check_path, parse_json, parse_yaml, read_yaml
from jaxrec.errors import LONGEST, UserError, one_line, shown

Capsys = pytest.CaptureFixture[str]


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("-7", -7), ("+1", 1), ("0x1F", 31), ("9" * 300, 10**300 - 1), ("9" * 301, "9" * 301),
    ("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("1.0e-05", 1e-5), ("1e-3", 1e-3), ("-.inf", -math.inf),
    ("true", True), ("False", False), ("~", None), ("", None), ("null", None), ("'null'", "null"),
    # What YAML 1.1 takes for octal, sexagesimal, truth, a day or a default is the text that was written.
    ("010", "010"), ("1:30", "1:30"), ("no", "no"), ("2024-01-31", "2024-01-31"), ("=", "="), ("1_000", "1_000"),
    ("[1, [a, {b: 2}]]", [1, ["a", {"b": 2}]]), ("\ufeffa: 1", {"a": 1}), ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
])  # fmt: skip
def test_yaml_is_read_as_it_is_written(text: str, value: Any) -> None:
    found = parse_yaml(text, "f.yaml")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("text", "message"), [
    ("data: {}\nmodel:\n  name: a\n\nmodel:\n  heads: 1\n", "line 5: not YAML ('model' is there already (line 2)"),
    ("- {x: 1,\n   y: 2,\n   x: 3}\n", "line 3: not YAML ('x' is there already (line 1)"),
    ("a: !!python/object/apply:os.system [x]", "tags and aliases are not read"), ("[" * 5000, "recursion"),
    ("? [a]\n: b", "a list or a mapping is no key"), ("&a [*a]", "tags and aliases are not read"),
    ("--- 1\n--- 2", "another document"),
])  # fmt: skip
def test_yaml_that_is_not_plain_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "f.yaml")
    found = str(caught.value)
    assert message in found and found.startswith("f.yaml") and len(found) < 250 and found.isprintable()


def test_files_json_pairs_and_paths_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    for name, why in {"a\0b": "embedded null byte", ".": "Is a directory", "none": "No such file",
                      "latin.yaml": "not UTF-8"}.items():  # fmt: skip
        with pytest.raises(UserError, match=rf"cannot read the rules \({why}"):
            read_yaml(tmp_path / name, "the rules")
    for text, message in {'[{"id": 1, "b": 3, "id": 2}]': "one of .* stands twice", '{\n"a": }': "not JSON .*line 2",
                          f"[{'1' * 5000}]": "not JSON", "[" * 100_000: "not JSON"}.items():  # fmt: skip
        with pytest.raises(UserError, match=f"^f.json: {message}"):
            parse_json(text, "f.json")
    for words in (["a=1", "a=2"], ["a"]):
        with pytest.raises(UserError, match="expected FIELD=VALUE"):
            pairs("--profile", words)
    for path in ("", "a\0b", "é" * 128):
        with pytest.raises(UserError, match=r"^data\.path: "):
            check_path("data.path", path)


def test_errors_of_the_machine_are_one_line_and_a_bug_is_none(capsys: Capsys) -> None:
    def run(error: BaseException) -> int:
        def main(argv: Any) -> None:
            raise error

        return command(main, [])

    assert command(lambda _: os.stat("y" * 300) and None, []) == 2
    assert capsys.readouterr().err == f"jaxrec: error: File name too long at {'y' * 300}; name another path\n"
    assert run(KeyboardInterrupt()) == 130
    for bug in (ValueError("ours"), ModuleNotFoundError(name="jaxrec.nothing")):
        with pytest.raises(type(bug)):
            run(bug)


def test_a_message_is_one_line_of_bounded_length(capsys: Capsys) -> None:
    assert str(UserError("a\nb\tc\x1b[31m\u2028\ud800é\u3000日")) == "a\\nb\\tc\\x1b[31m\\u2028\\ud800é\u3000日"
    long = str(UserError("found " + "x" * 10_000 + "; give less"))
    assert len(long) == LONGEST and long.startswith("found xxx") and long.endswith("xxx; give less") and " … " in long
    assert len(one_line("\x00" * 10_000)) == LONGEST
    say("note", "left out: a\nb \x1b[2J")
    tell("a\nb: done")
    assert capsys.readouterr() == ("a\\nb: done\n", "jaxrec: note: left out: a\\nb \\x1b[2J\n")
    for value, text in {"a\nb": r"'a\nb'", "x" * 100: f"'{'x' * 57}…'", Path("a/b"): "'a/b'", "\u202e": r"'\u202e'",
                        10**5000: "a number of thousands of digits"}.items():  # fmt: skip
        assert shown(value) == text


def test_what_an_encoding_has_no_letters_for_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"id": "é 日 😀\udce9", "score": math.inf, "known": [{"price": math.nan, "at": Path("x")}, 1.5]}

    def main(argv: Any) -> None:
        print(as_json(value))
        raise UserError("found é 日 😀")

    for encoding in ("ascii", "utf-8"):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert command(main, []) == 2
        printed, said = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
        # numbers that are none are null
        assert json.loads(printed) == {"id": value["id"], "score": None, "known": [{"price": None, "at": "x"}, 1.5]}
        assert said.startswith("jaxrec: error: found ") and said.count("\n") == 1


# ---- one process owns a place, and what a killed one leaves says nothing ---------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from jaxrec.cli.lock import owned
with owned(Path(sys.argv[1]), "works", "go"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "place"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        (tmp_path / "alias").symlink_to(place.parent)
        for name in (place, tmp_path / "alias" / "place"):
            with pytest.raises(UserError, match=rf"another process \(pid {other.pid}\) works; wait for it, or go"):
                owned(name, "works", "go").__enter__()
        other.kill()
    assert lock_file(place).exists()  # of the dead
    with owned(place, "works", "go"):
        pass
    assert not lock_file(place).exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a parent of it is a file; go"), owned(tmp_path / "file" / "c", "works", "go"):
        pass


def test_one_of_many_has_the_lock(tmp_path: Path) -> None:
    """Whoever gets the file of an owner that is just leaving has to notice."""
    inside, most, got = [0], [0], [0]

    def work() -> None:
        for _ in range(50):
            try:
                with owned(tmp_path / "place", "works", "go"):
                    inside[0] += 1
                    most[0], got[0] = max(most[0], inside[0]), got[0] + 1
                    inside[0] -= 1
            except UserError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and got[0] and not list(tmp_path.iterdir())


# ---- progress without a terminal -------------------------------------------------------------------------------------


def test_short_work_says_nothing_and_long_work_something(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    threads = threading.active_count()
    with progress("short", 2) as update:
        update()
    assert capsys.readouterr().err == "" and threading.active_count() == threads
    monkeypatch.setattr(shell, "EVERY", 0.01)
    with progress("long", 4) as update:
        update(note="first\n")
        update(note="half\n")
        time.sleep(0.1)
    assert re.match(r"long, 50 %, half\\n, 0:00:0\d left\n", capsys.readouterr().err)
