"""Whatever people hand in is answered, or refused in one line. ``JAXREC_FUZZ=2000`` tries more of each kind."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import MAINS, ROOT, write_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.cli.command import command
from jaxrec.cli.text import parse_yaml
from jaxrec.data.dataset import open_dataset
from jaxrec.errors import LONGEST, UserError
from jaxrec.recommend import Recommender
from jaxrec.tune.__main__ import load_space

EXAMPLES = int(os.environ.get("JAXREC_FUZZ", "20"))  # of each kind
HANGS = 60  # seconds of one input
Outcome = Callable[[Worlds, Path, Any], object]

TOKENS = [
    "1", "0", "-1", "2.5", "1e-3", "1e400", ".inf", ".nan", "nan", "010", "0x1F", "1_000", "1:30", "9" * 5000, "9" * 30,
    "2024-13-45", "2024-01-31", "yes", "true", "null", "~", "", "''", "'x", '"\\ud800"', '"a\\0b"', "é", "日本",
    "!!timestamp x", "!!python/object/apply:os.system [x]", "!!set {a}", "!x y", "[" * 3000, "{a: " * 60, "[1, 2]",
    "[]", "{}", "{a: 1, a: 2}", "{a: {b: [1]}}", "? [a]", "<<: 1", "*a", "&a [*a]", "- 1", "|", ">-", "@", "`", "x: y",
    "a" * 300, "/" * 5000, "x\x07", "\ud800", "\u2028", "gru4rec", "autoint", "cross_entropy", "softmax", "adam",
    "recall@20", "recall@0", "auc", "price <= 5", "price = 'a' or", "nope = 1",
]  # fmt: skip
TEXTS = st.text(max_size=8) | st.sampled_from(TOKENS) | st.text(st.characters(), max_size=3)  # the last with surrogates
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 60), st.integers(), st.floats(), TEXTS, st.integers(-3, 60).map(str),
    st.sampled_from([10**30, 2**63, 10**400, np.int64(3), np.float32(2.5), np.str_("7"), np.nan, b"x"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=4
)


@st.composite
def damaged(draw: st.DrawFn, *files: str) -> str:
    """The text of a file with up to three lines or characters changed."""
    text = (ROOT / draw(st.sampled_from(files))).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        head, colon, _ = lines[at].partition(":")
        token, place = draw(st.sampled_from(TOKENS)), draw(st.integers(0, len(lines[at])))
        lines[at] = draw(st.sampled_from([
            f"{head}{colon} {token}", f"{lines[at]}\n{lines[at]}", "", f"  {lines[at]}", f"{token}{colon}{head}",
            lines[at][:place] + draw(st.sampled_from(list("[]{}:,#&*!|>'\"%@`-?\t\n \\\x00"))) + lines[at][place:],
        ]))  # fmt: skip
    return "\n".join(lines) + "\n"


FIELDS = [*configuration.fields(), "training", "epochs", "x.y", "", "data.paht"]
GOOD = [("training.epochs", ["3"]), ("model.layers", ["8", "4"]), ("data.path", ["é/x"]), ("evaluation.k", ["1", "9"])]
OVERRIDES = st.lists(
    st.sampled_from(GOOD) | st.tuples(st.sampled_from(FIELDS), st.lists(TEXTS, max_size=2)), min_size=1, max_size=3
).map(lambda pairs: [word for name, words in pairs for word in (f"--{name}", *words)])
EVENT = st.fixed_dictionaries({}, optional={
    "item": st.integers(0, 420) | VALUES, "event": st.sampled_from(["item_view", "buy_comp", "x"]) | VALUES,
    "name": TEXTS | VALUES, "price": st.floats(0, 100) | VALUES, "itme": VALUES,
})  # fmt: skip
QUERIES = st.tuples(
    st.fixed_dictionaries({}, optional={
        "items": st.lists(st.integers(1, 100) | SCALARS, max_size=4) | VALUES, "user": st.integers(1, 5) | VALUES,
        "profile": st.dictionaries(st.sampled_from(["age", "gender"]) | TEXTS, VALUES, max_size=3) | VALUES,
        "events": st.lists(EVENT, max_size=3) | VALUES, "at": VALUES, "itmes": VALUES}),
    st.fixed_dictionaries({}, optional={
        "k": st.integers(1, 10) | st.integers(), "exclude": st.lists(SCALARS, max_size=2),
        "only": st.none() | st.lists(st.integers(1, 100), max_size=5) | VALUES}),
)  # fmt: skip

CELLS = st.sampled_from([
    "1", "0", "-1", "1.5", "007", " 1", "A b", "é", "", "nan", "NULL", "\\N", "true", "1e400", "inf", "9" * 400,
    "1700003600000", "2024-01-31 10:00:00", "2024-13-45", "31/01/2024", "'x'", "['a', 'b']", "a|b", "x" * 3000, "\x07",
    "\x00", "\u2028", "\ufeff", ";", "\t",
])  # fmt: skip
TIMES = st.integers(1_700_000_000, 1_700_400_000).map(str)
PIECES = ['"', "'", ",", "\n", "\r\n", "\x00", ";", "\ufeff", "x" * 2000, "\n\n"]
SIMPLE = st.sampled_from(["1", "2", "3", "4", "5"])
ROWS = {"user": SIMPLE, "item": SIMPLE, "stars": st.sampled_from(["0", "1", "2", "5"]), "when": TIMES, "kind": SIMPLE,
        "tags": st.sampled_from(["a", "a|b", ""])}  # fmt: skip


@st.composite
def tables(draw: st.DrawFn, **columns: Any) -> tuple[bytes, list[list[str]] | None]:
    """A CSV file, and its rows where nothing about it is odd."""
    odd = draw(st.sampled_from([0.0, 0.03, 0.3]))
    rows = [[draw(CELLS if draw(st.floats(0, 1)) < odd else usual) for usual in columns.values()]
            for _ in range(draw(st.integers(0, 24)))]  # fmt: skip
    text = "\n".join(",".join(row) for row in [list(columns), *rows]) + "\n"
    for _ in range(draw(st.integers(0, 2)) if odd else 0):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(PIECES)) + text[at + draw(st.integers(0, 3)) :]
    data = text.encode("utf-8", "surrogatepass")
    if odd and draw(st.integers(0, 9)) == 0:
        data = draw(st.sampled_from([data.replace(b"1", b"\xff"), text.encode("utf-16"), b"", b"PAR1" + data,
                                     b"\x1f\x8b" + data]))  # fmt: skip
    return data, None if odd else rows


TYPES = [
    pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_(), pa.decimal128(20, 2), pa.string(),
    pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string()), pa.date32(), pa.timestamp("ns"),
    pa.timestamp("us", "Europe/Paris"), pa.time32("s"), pa.duration("s"), pa.list_(pa.string()), pa.null(),
    pa.struct([("a", pa.int64())]),
]  # fmt: skip
USUAL = {"u": pa.int64(), "i": pa.string(), "l": pa.float64(), "t": pa.int64(), "b": pa.list_(pa.string())}


@st.composite
def typed_tables(draw: st.DrawFn) -> tuple[bytes, None]:
    """A Parquet table whose columns may be of any type."""
    columns, stream = {}, io.BytesIO()
    for name, usual in USUAL.items():
        kind = draw(st.just(usual) | st.sampled_from(TYPES))
        numbers = pa.array([draw(st.integers(1, 3)) for _ in range(12)], pa.int64())
        try:
            columns[name] = numbers.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            columns[name] = pa.array([None] * 12, kind)
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue(), None


def written(place: Path, text: str) -> Path:
    (place / "c.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    return place / "c.yaml"


def configurations(worlds: Worlds, place: Path, text: str) -> None:
    """What is read is what is written: it is dumped and read again, and every number is that of the file."""
    config = configuration.load(written(place, text))
    for section, part in parse_yaml(text, "text").items():
        for name, value in part.items():
            if isinstance(value, (int, float)):
                assert getattr(getattr(config, section), name) == value
    assert configuration.load(written(place, configuration.dump(config))) == config


def overrides(worlds: Worlds, place: Path, words: list[str]) -> None:
    config = configuration.load(write_config(place / "base.yaml", place / "none"), words)
    assert configuration.load(written(place, configuration.dump(config))) == config


def queries(model: str) -> Outcome:
    loaded: list[Recommender] = []

    def ask(worlds: Worlds, place: Path, case: tuple[dict[str, Any], dict[str, Any]]) -> None:
        loaded[:] = loaded or [Recommender.load(worlds.old(model))]
        query, how = case
        reads = {name: value for name, value in query.items() if name in (*loaded[0].reads, "itmes")}
        answer = loaded[0].recommend(reads, **{"k": 3, **how})
        scores = [float(item.score) for item in answer.items]
        assert len(scores) <= how.get("k", 3) and len({str(item.id) for item in answer.items}) == len(scores)
        assert np.isfinite(scores).all() and scores == sorted(scores, reverse=True)
        assert all(note.isprintable() for note in answer.notes)

    return ask


def prepared(words: str, count: Callable[[Any], int], expected: Callable[[list[list[str]]], int] = len) -> Outcome:
    """Prepares a file; of one that is not odd ``count`` of the manifest's counts is as many as ``expected``."""

    def prepare(worlds: Worlds, place: Path, case: tuple[bytes, list[list[str]] | None]) -> None:
        (place / "raw.csv").write_bytes(case[0])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            argv = [*words.split(), "--raw", str(place / "raw.csv"), "--out", str(place / "data")]
            status = command(MAINS["prepare"], argv)
        if status:
            lines = err.getvalue().split("\n")
            assert status == 2 and lines[-2].startswith("jaxrec: error: "), err.getvalue()
            assert [entry.name for entry in place.iterdir()] == ["raw.csv"], "left behind"
            raise UserError(lines[-2])
        dataset = open_dataset(place / "data")
        dataset.verify()
        assert case[1] is None or count(dataset.manifest["counts"]) == expected(case[1])

    return prepare


def in_sessions(rows: list[list[str]]) -> int:
    return sum(count for count in Counter(row[0] for row in rows).values() if count > 1)


KINDS: dict[str, tuple[Outcome, st.SearchStrategy[Any]]] = {
    "configurations": (configurations, damaged("configs/gru4rec_synthetic.yaml", "configs/two_tower_ml1m.yaml")),
    "overrides": (overrides, OVERRIDES),
    "spaces": (lambda _, place, text: load_space(written(place, text)), damaged("configs/tune_autoint.yaml")),
    **{f"queries of {model}": (queries(model), QUERIES) for model in ("gru4rec", "merrec")},
    "rows": (prepared("rows --user user --item item --label stars --time when --categorical kind --bag tags "
                      "--positive 2", lambda counts: counts["rows"]), tables(**ROWS)),
    "event logs": (prepared("events --session visit --item item --time at --test-days 0 --min-item-support 1",
                            lambda counts: counts["train"]["events"], in_sessions),
                   tables(visit=SIMPLE, item=SIMPLE, at=TIMES)),
    "typed tables": (prepared("rows --user u --item i --label l --time t --time-unit order --bag b --positive 2",
                              lambda counts: counts["rows"]), typed_tables()),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_hand_in_is_answered_or_refused_in_one_line(kind: str, worlds: Worlds, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    attempt, strategy = KINDS[kind]

    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def each(case: Any) -> None:
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        outcome = "answered"
        signal.alarm(HANGS)  # ends the process
        try:
            attempt(worlds, place, case)
        except UserError as error:
            message, outcome = str(error), "refused"
            assert message and len(message) <= LONGEST + 20, f"{len(message)} characters"
            assert all(one.isprintable() or unicodedata.category(one) == "Zs" for one in message), repr(message)
        finally:
            signal.alarm(0)
        counts[outcome] += 1

    each()
    assert counts["answered"] and counts["refused"], counts
