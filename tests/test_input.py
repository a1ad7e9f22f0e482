"""What people type and write: YAML and JSON read as written or refused in one line, paths, messages, encodings."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, call, fails

from jaxrec.cli.command import Parser, as_json, command, say, tell
from jaxrec.cli.json_text import parse_json
from jaxrec.cli.options import pairs
from jaxrec.cli.yaml_text import parse_yaml, read_yaml
from jaxrec.data.codes import UnknownValues, warn_unknown
from jaxrec.errors import LONGEST, UserError, nearest, one_line, shown
from jaxrec.tasks.clicks import recommend as recommend_rows
from jaxrec.tasks.clicks.recommend import Recommendation
from jaxrec.tune.search_space import load_space

Capsys = pytest.CaptureFixture[str]


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "f.yaml")
    return str(caught.value)


# ---- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("-7", -7), ("+1", 1), ("0", 0), ("0x1F", 31), ("18446744073709551615", 2**64 - 1),
    ("9" * 300, 10**300 - 1),
    ("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("1.0e-05", 1e-5), ("-.inf", -math.inf), ("!!float 2", 2.0),
    ("true", True), ("False", False), ("~", None), ("", None), ("null", None), ("'null'", "null"),
    # What YAML 1.1 takes for octal, sexagesimal, truth, a day or a default is the text that was written.
    ("010", "010"), ("007", "007"), ("1:30", "1:30"), ("no", "no"), ("on", "on"), ("2024-01-31", "2024-01-31"),
    ("2024-13-45", "2024-13-45"), ("=", "="), ("1_000", "1_000"), ("0b11", "0b11"), ("1e-3", "1e-3"), ("!!str 5", "5"),
    ("[1, [a, {b: 2}]]", [1, ["a", {"b": 2}]]), ("\ufeffa: 1", {"a": 1}), ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
])  # fmt: skip
def test_values_are_read_as_they_are_written(text: str, value: Any) -> None:
    found = parse_yaml(text, "f.yaml")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("text", "message"), [
    ("data: {}\nmodel:\n  name: a\n\nmodel:\n  heads: 1\n", "f.yaml, line 5: 'model' is there already (line 2)"),
    ("a:\n  b: 1\n  c: 2\n  'b': 3\n", "f.yaml, line 4: 'b' is there already (line 2)"),
    ("- {x: 1,\n   y: 2,\n   x: 3}\n", "f.yaml, line 3: 'x' is there already (line 1)"),
    ("1: a\n0x1: b\n", "f.yaml, line 2: 1 is there already (line 1)"),
    ("a: {}\nb: &b {c: 1, c: 1}\n", "f.yaml, line 2: 'c' is there already (line 2)"),
    ("a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n", "f.yaml, line 4: '<<' is there already (line 3)"),
])  # fmt: skip
def test_a_key_twice_is_refused_with_both_lines(text: str, message: str) -> None:
    assert refused(text) == message


def test_merged_keys_yield_to_a_mappings_own_and_to_the_first_that_is_merged() -> None:
    text = "w: &w {k: 0, j: 1}\nv: &v {k: 5, i: 2}\nx: &x {<<: *w, k: 7}\ny: {z: 1, <<: *x}\nu: {<<: [*w, *v]}\n"
    found = parse_yaml(text, "f")
    assert found["x"] == {"k": 7, "j": 1}
    assert found["y"] == {"k": 7, "j": 1, "z": 1}  # PyYAML says k: 0
    assert found["u"] == {"k": 0, "j": 1, "i": 2}


def laughs(first: str, of: str) -> str:
    lines = [f"a0: &a0 {first}", *(f"a{i}: &a{i} {of.format(','.join([f'*a{i - 1}'] * 10))}" for i in range(1, 12))]
    return "\n".join(lines)


@pytest.mark.parametrize(("text", "message"), [
    ("a: 1\nb: !!bool x\n", "f.yaml, line 2: 'x' is no bool"), ("- !!int 1:30", "'1:30' is no int"),
    ("a: !!float x", "'x' is no float"), ("a: !!null x", "'x' is no null"), ("a: !!timestamp x", "the tag '"),
    ("a: !!python/object/apply:os.system [x]", "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is"),
    ("a:\n b: " + "9" * 5000, "line 2: a number of 5,000 digits; at most 300"), ("a: 1." + "9" * 5000, "5,001 digits"),
    ("[" * 5000, "nested more than 50 deep"), ("- " * 5000, "nested more than 50 deep"), ("{a: " * 5000, "50 deep"),
    ("? [a]\n: b", "a list or a mapping is no key"), ("<<: 1", "only mappings can be merged"),
    ("&a [*a]", "within what it names"), ("x: 1\ny: \x07", "line 2: not YAML"),
    ("&a {b: *a}", "within what it names"), (laughs("[x,x]", "[{}]"), "line 6: more than 50,000 values"),
    ("a: [1, 2", "not YAML"), ("a: *b", "not YAML"), ("--- 1\n--- 2", "another document"),
    ("a: 'x", "not YAML"), ('"\\ud800": 1', "'\\ud800' holds half of a character"), ("a: !!map [1]", "not YAML"),
])  # fmt: skip
def test_what_is_not_plain_is_one_line(text: str, message: str) -> None:
    found = refused(text)
    assert message in found
    assert found.startswith("f.yaml, line ") and len(found) < 200 and found.isprintable()


def test_files_that_cannot_be_configurations(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n" * 300_000)
    with pytest.raises(UserError, match=r"log.csv: cannot read the rules \(more than 1,000,000 characters\)"):
        read_yaml(tmp_path / "log.csv", "the rules")
    with pytest.raises(UserError, match=r"a\\x00b: cannot read the rules \(embedded null byte\)"):
        read_yaml(tmp_path / "a\0b", "the rules")


def test_a_tuning_space_names_a_field_once(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("training.seed: {choices: [1, 2]}\ntraining.seed: {choices: [3, 4]}\n")
    with pytest.raises(UserError, match=r"s.yaml, line 2: 'training.seed' is there already \(line 1\)"):
        load_space(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text("optimizer.learning_rate: {low: 1e-4, high: 0.01, log: true}\n")
    assert load_space(tmp_path / "s.yaml").parameters[0].low == 1e-4


# ---- JSON ------------------------------------------------------------------------------------------------------------


def test_json_is_read_and_a_name_twice_refused() -> None:
    assert parse_json('{"a": [1, 2.5, null, true], "b": {"a": "é"}}', "f") == {
        "a": [1, 2.5, None, True],
        "b": {"a": "é"},
    }
    for text, message in {
        '[{"id": 1, "b": 2}, {"id": 1, "b": 3, "id": 2}]': "f.json: 'id' stands twice in one object; leave one out",
        '{\n"a": }': "f.json, line 2, column 6: not JSON (Expecting value); mend it",
        f"[{'1' * 5000}]": "f.json: a number of 5,000 digits; at most 300 are read; mend it",
        "[" * 100_000: "f.json: not JSON that can be read (lists within lists too deep); mend it",
    }.items():
        with pytest.raises(UserError) as caught:
            parse_json(text, "f.json")
        assert str(caught.value) == message


# ---- options and paths -----------------------------------------------------------------------------------------------


def test_an_option_or_a_field_twice_is_refused() -> None:
    parser = Parser(prog="p")
    parser.add_argument("--run", metavar="DIR")
    parser.add_argument("--items", nargs="*")
    parser.add_argument("--each", action="append")
    found = parser.parse_args(["--run", "a", "--items", "1", "2", "--each", "x", "--each", "y"])
    assert (found.run, found.items, found.each) == ("a", ["1", "2"], ["x", "y"])
    assert parser.parse_args(["--run", "b"]).run == "b", "each call on its own"
    with pytest.raises(UserError, match=r"^--run: given twice, as 'a' and 'b'; leave one out$"):
        parser.parse_args(["--run", "a", "--run", "b"])
    with pytest.raises(UserError, match=r"^--items: given twice, as \['1'\] and \['2'\]; write all its values"):
        parser.parse_args(["--items", "1", "--items", "2"])
    assert pairs("--profile", ["a=1", "b=a=1"]) == {"a": "1", "b": "a=1"}
    with pytest.raises(UserError, match=r"^--profile: 'a' is given twice, as '1' and '2'; leave one out$"):
        pairs("--profile", ["a=1", "a=2"])


LONG = "x" * 256
BAD_PATHS = {
    "": "found an empty path", "a\0b": r"'a\\x00b' holds a NUL", f"a/{LONG}/b": "'a/x+…' holds a name of 256 bytes",
    "é" * 128: "holds a name of 256 bytes", "a/" * 2048 + "b": r"is a path of 4,\d{3} bytes",
    "\udce9": r"'\\udce9' holds bytes that are not UTF-8",
}  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_no_file_can_have(path: str, tmp_path: Path, capsys: Capsys) -> None:
    for words in (["train", "--config"], ["train", "--config", ROOT / "configs/gru4rec_synthetic.yaml", "--run"],
                  ["prepare", "synthetic", "--out"], ["prepare", "events", "--out", tmp_path / "o", "--raw"],
                  ["recommend", "--run"], ["recommend", "--run", tmp_path, "--events"], ["evaluate", "--data"],
                  ["recommend", "--run", tmp_path, "--add-items"]):  # fmt: skip
        line = fails(capsys, *words, path, names=f"{words[-1]}: .*{BAD_PATHS[path]}")
        assert line.isprintable() and len(line) < 250
    words = ["train", "--config", ROOT / "configs/gru4rec_synthetic.yaml", "--run", tmp_path / "r", "--data.path"]
    fails(capsys, *words, path, names=f"data.path: .*{BAD_PATHS[path]}")
    assert not any(tmp_path.iterdir())


def test_errors_of_a_path_that_only_the_file_system_knows(tmp_path: Path, capsys: Capsys) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (loop / "x", "/dev/null/x"):
        fails(capsys, "train", "--config", path, names="cannot read the configuration")
        fails(capsys, "prepare", "synthetic", "--out", path, names="; (choose another --out|name another path)")

    def main(argv: Any) -> None:
        os.stat("y" * 300)

    assert command(main, []) == 2
    assert capsys.readouterr().err == f"jaxrec: error: File name too long at {'y' * 300}; name another path\n"


# ---- messages --------------------------------------------------------------------------------------------------------


def test_a_message_is_one_line_of_bounded_length() -> None:
    assert str(UserError("a\nb\tc\x1b[31m\u2028\ud800é\u3000日")) == "a\\nb\\tc\\x1b[31m\\u2028\\ud800é\u3000日"
    long = str(UserError("found " + "x" * 10_000 + "; give less"))
    assert len(long) == LONGEST and long.startswith("found xxx") and long.endswith("xxx; give less") and " … " in long
    assert len(one_line("\x00" * 10_000)) == LONGEST
    assert str(UserError("plain, as it was written")) == "plain, as it was written"


@pytest.mark.parametrize(("value", "text"), [
    ("a\nb", r"'a\nb'"), (5, "5"), (None, "None"), ([1, "x"], "[1, 'x']"), ("x" * 100, f"'{'x' * 57}…'"),
    (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17…"[:59] + "…"),
    (Path("a/b"), "'a/b'"), ("\u202e", r"'\u202e'"),
])  # fmt: skip
def test_values_as_messages_show_them(value: Any, text: str) -> None:
    assert shown(value) == text


def test_a_number_that_python_does_not_write() -> None:
    assert shown(10**5000) == "a number of thousands of digits"


def test_a_name_of_a_million_characters_has_no_nearest() -> None:
    assert nearest("epoch", ["epochs"]) == " (did you mean 'epochs'?)"
    assert nearest("epochs" * 200_000, ["epochs" * 200_000]) == ""


def test_notes_are_one_line(capsys: Capsys) -> None:
    say("note", "unknown items left out: a\nb \x1b[2J")
    assert capsys.readouterr().err == "jaxrec: note: unknown items left out: a\\nb \\x1b[2J\n"


@pytest.mark.parametrize(("encoding", "letters"), [
    ("ascii", r"\u00e9 \u65e5 \ud83d\ude00"), ("latin-1", r"é \u65e5 \ud83d\ude00"), ("utf-8", "é 日 😀"),
])  # fmt: skip
def test_what_an_encoding_has_no_letters_for_is_escaped(encoding: str, letters: str) -> None:
    program = (
        "import json, sys; from jaxrec.cli.command import command; from jaxrec.errors import UserError\n"
        "def main(argv):\n"
        "    print(json.dumps({'id': 'é 日 😀\\udce9'}, ensure_ascii=False))\n"
        "    raise UserError('found é 日 😀')\n"
        "sys.exit(command(main, []))"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, timeout=60)
    assert found.returncode == 2
    assert found.stdout.decode(encoding) == f'{{"id": "{letters}\\udce9"}}\n'
    assert json.loads(found.stdout.decode(encoding)) == {"id": "é 日 😀\udce9"}
    assert found.stderr.decode(encoding).startswith("jaxrec: error: found ")
    assert len(found.stderr.splitlines()) == 1


def test_a_run_whose_name_holds_a_line_end(tmp_path: Path, capsys: Capsys) -> None:
    assert call("recommend", "--run", tmp_path / "a\nb", "--items", 1) == 2
    assert r"a\nb: no run here" in capsys.readouterr().err
    tell(f"{tmp_path}/a\nb: done")
    assert capsys.readouterr().out == f"{tmp_path}/a\\nb: done\n"


def test_json_has_no_numbers_that_are_none() -> None:
    value = {"item": "a\nb", "score": np.inf, "known": [{"price": math.nan, "at": Path("x")}, 1.5]}
    assert as_json(value) == '{"item": "a\\nb", "score": null, "known": [{"price": null, "at": "x"}, 1.5]}'


def test_warnings_are_one_line() -> None:
    with pytest.warns(UnknownValues) as caught:
        warn_unknown("training has not seen 'a\nb'" + "x" * 5000)
    assert len(caught) == 1 and str(caught[0].message).startswith(r"training has not seen 'a\nb'xxx")
    assert len(str(caught[0].message)) == LONGEST


def test_ids_with_line_ends_keep_to_their_line() -> None:
    rows = [Recommendation("a\nb", 0.5, {"name": "x\x1b[31m\ty"}), Recommendation("é", 0.25, {"name": "z"})]
    lines = recommend_rows._table(rows).split("\n")
    assert len(lines) == 3 and r"a\nb" in lines[1] and r"x\x1b[31m\ty" in lines[1] and "é" in lines[2]
