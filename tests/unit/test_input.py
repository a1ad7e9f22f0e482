"""What people type and write: YAML and JSON read as written or refused in one line, options, paths, messages."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxrec.cli.command import Parser, as_json, command, say, tell
from jaxrec.cli.json_text import parse_json
from jaxrec.cli.options import pairs
from jaxrec.cli.paths import check_path
from jaxrec.cli.yaml_text import parse_yaml, read_yaml
from jaxrec.errors import LONGEST, UserError, one_line, shown

Capsys = pytest.CaptureFixture[str]


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("-7", -7), ("+1", 1), ("0", 0), ("0x1F", 31), ("9" * 300, 10**300 - 1), ("9" * 301, "9" * 301),
    ("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("1.0e-05", 1e-5), ("-.inf", -math.inf),
    ("true", True), ("False", False), ("~", None), ("", None), ("null", None), ("'null'", "null"),
    # What YAML 1.1 takes for octal, sexagesimal, truth, a day or a default is the text that was written.
    ("010", "010"), ("1:30", "1:30"), ("no", "no"), ("on", "on"), ("2024-01-31", "2024-01-31"), ("=", "="),
    ("1_000", "1_000"), ("0b11", "0b11"), ("1e-3", "1e-3"),
    ("[1, [a, {b: 2}]]", [1, ["a", {"b": 2}]]), ("\ufeffa: 1", {"a": 1}), ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
    ("w: &w {k: 0, j: 1}\nx: {k: 7, <<: *w}", {"w": {"k": 0, "j": 1}, "x": {"k": 7, "j": 1}}),
])  # fmt: skip
def test_yaml_is_read_as_it_is_written(text: str, value: Any) -> None:
    found = parse_yaml(text, "f.yaml")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("text", "message"), [
    ("data: {}\nmodel:\n  name: a\n\nmodel:\n  heads: 1\n", "line 5: 'model' is there already (line 2)"),
    ("- {x: 1,\n   y: 2,\n   x: 3}\n", "line 3: 'x' is there already (line 1)"),
    ("a: !!python/object/apply:os.system [x]", "the tag 'tag:yaml.org,2002:python/object/apply:os.system' is"),
    ("[" * 5000, "nested too deep"), ("? [a]\n: b", "a list or a mapping is no key"), ("&a [*a]", "an alias stands"),
    ("a: [1, 2", "not YAML"), ("--- 1\n--- 2", "another document"),
])  # fmt: skip
def test_yaml_that_is_not_plain_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "f.yaml")
    line = str(caught.value)
    assert message in line and line.startswith("f.yaml, line ") and len(line) < 200 and line.isprintable()


def test_files_that_cannot_be_configurations(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    for name, why in {"a\0b": "embedded null byte", "none": "No such file", "latin.yaml": "not UTF-8"}.items():
        with pytest.raises(UserError, match=rf"cannot read the rules \({why}"):
            read_yaml(tmp_path / name, "the rules")


def test_json_is_read_and_a_name_twice_refused() -> None:
    value = {"a": [1, 2.5, None, True], "b": {"a": "é"}}
    assert parse_json(json.dumps(value), "f") == value
    for text, message in {
        '[{"id": 1, "b": 2}, {"id": 1, "b": 3, "id": 2}]': "f.json: 'id' stands twice",
        '{\n"a": }': "f.json, line 2, column 6: not JSON",
        f"[{'1' * 5000}]": "f.json: a number of 5,000 digits",
        "[" * 100_000: "f.json: not JSON that can be read",
    }.items():
        with pytest.raises(UserError) as caught:
            parse_json(text, "f.json")
        assert str(caught.value).startswith(message)


def test_an_option_or_a_field_twice_is_refused() -> None:
    parser = Parser(prog="p")
    parser.add_argument("--run", metavar="DIR")
    parser.add_argument("--each", action="append")
    given = parser.parse_args(["--run", "a", "--each", "x", "--each", "y"])
    assert (given.run, given.each) == ("a", ["x", "y"])
    assert parser.parse_args(["--run", "b"]).run == "b", "each call on its own"
    with pytest.raises(UserError, match=r"^--run: given twice, as 'a' and 'b'"):
        parser.parse_args(["--run", "a", "--run", "b"])
    assert pairs("--profile", ["a=1", "b=a=1"]) == {"a": "1", "b": "a=1"}
    for words, message in ((["a=1", "a=2"], "'a' is given twice"), (["a"], "expected FIELD=VALUE")):
        with pytest.raises(UserError, match=message):
            pairs("--profile", words)


@pytest.mark.parametrize(
    ("path", "message"), [("", "empty path"), ("a\0b", "a NUL"), ("é" * 128, "a name of 256 bytes")]
)
def test_paths_that_no_file_can_have(path: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^data.path: .*{message}") as caught:
        check_path("data.path", path)
    assert len(str(caught.value)) < 250


def test_errors_of_the_machine_are_one_line_and_a_bug_is_none(capsys: Capsys) -> None:
    def main(argv: Any) -> None:
        os.stat("y" * 300)

    def broken(argv: Any) -> None:
        raise ValueError("ours")

    def interrupted(argv: Any) -> None:
        raise KeyboardInterrupt

    assert command(main, []) == 2
    assert capsys.readouterr().err == f"jaxrec: error: File name too long at {'y' * 300}; name another path\n"
    assert command(interrupted, []) == 130
    with pytest.raises(ValueError, match="ours"):
        command(broken, [])


def test_a_message_is_one_line_of_bounded_length(capsys: Capsys) -> None:
    assert str(UserError("a\nb\tc\x1b[31m\u2028\ud800é\u3000日")) == "a\\nb\\tc\\x1b[31m\\u2028\\ud800é\u3000日"
    long = str(UserError("found " + "x" * 10_000 + "; give less"))
    assert len(long) == LONGEST and long.startswith("found xxx") and long.endswith("xxx; give less") and " … " in long
    assert len(one_line("\x00" * 10_000)) == LONGEST
    say("note", "left out: a\nb \x1b[2J")
    tell("a\nb: done")
    out, err = capsys.readouterr()
    assert (out, err) == ("a\\nb: done\n", "jaxrec: note: left out: a\\nb \\x1b[2J\n")


def test_values_as_messages_show_them() -> None:
    wanted = {
        "a\nb": r"'a\nb'",
        "x" * 100: f"'{'x' * 57}…'",
        Path("a/b"): "'a/b'",
        "\u202e": r"'\u202e'",
        tuple(range(100)): repr(tuple(range(100)))[:59] + "…",
        10**5000: "a number of thousands of digits",
    }
    assert {value: shown(value) for value in wanted} == wanted


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_an_encoding_has_no_letters_for_is_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"id": "é 日 😀\udce9"}

    def main(argv: Any) -> None:
        print(as_json(value))
        raise UserError("found é 日 😀")

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert command(main, []) == 2
    printed, said = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
    assert json.loads(printed) == value
    assert said.startswith("jaxrec: error: found ") and len(said.splitlines()) == 1


def test_json_has_no_numbers_that_are_none() -> None:
    value = {"item": "a\nb", "score": math.inf, "known": [{"price": math.nan, "at": Path("x")}, 1.5]}
    assert as_json(value) == '{"item": "a\\nb", "score": null, "known": [{"price": null, "at": "x"}, 1.5]}'
