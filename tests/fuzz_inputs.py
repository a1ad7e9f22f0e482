"""What people hand in, as hypothesis draws it: odd values, and configurations, tables and filters that are damaged."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from jaxrec import config as configuration

ROOT = Path(__file__).resolve().parent.parent
TOKENS = [
    "1", "0", "-1", "2.5", "1e-3", "1e400", ".inf", "-.inf", ".nan", "nan", "010", "007", "0x1F", "1_000", "1:30",
    "9" * 5000, "9" * 30, "2024-13-45", "2024-01-31", "yes", "no", "true", "null", "~", "", "''", "'x", '"\\ud800"',
    '"a\\0b"', "é", "日本", "!!bool x", "!!float x", "!!int x", "!!null x", "!!timestamp x",
    "!!python/object/apply:os.system [x]", "!!set {a}", "!!binary aGk=", "!x y", "[" * 3000, "{a: " * 60, "[1, 2]",
    "[]", "{}", "{a: 1, a: 2}", "{a: {b: [1]}}", "? [a]", "<<", "<<: 1", "*a", "&a [*a]", "&a x", "- 1", "|", ">-",
    "@", "`", "%", "x: y", "a" * 300, "/" * 5000, "x\x07", "\ud800", "\u2028", "gru4rec", "autoint", "two_tower",
    "merrec", "cross_entropy", "softmax", "adam", "recall@20", "recall@0", "auc",
]  # fmt: skip
SIGNS = st.sampled_from(list("[]{}:,#&*!|>'\"%@`-?\t\n \\~=<0a\x00\x07\x85\ud800\u2028é"))
CONFIGS = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "configs").glob("*.yaml"))]
CONFIGS = [text for text in CONFIGS if "\ndata:" in text]
SPACES = [(ROOT / "configs/tune_autoint.yaml").read_text(encoding="utf-8")]
RULES = [(ROOT / "jaxrec/personas/personas.yaml").read_text(encoding="utf-8")]

TEXTS = st.text(max_size=8) | st.sampled_from(TOKENS) | st.text(st.characters(), max_size=3)  # the last with surrogates
LARGE = st.sampled_from([10**30, 2**63, -(2**63), 2**64 - 1, 10**400])
NUMPY = st.sampled_from([np.int64(3), np.float32(2.5), np.str_("7"), np.nan, b"x"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 60), st.integers(), LARGE, st.floats(), TEXTS,
    st.integers(-3, 60).map(str), NUMPY,
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2)
    | st.lists(inner, max_size=2).map(tuple), max_leaves=4,
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, texts: list[str]) -> str:
    """A text with up to three lines or characters changed."""
    lines = draw(st.sampled_from(texts)).splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["value", "value", "value", "twice", "away", "sign", "indent", "line", "key"]))
        head, colon, _ = lines[at].partition(":")
        if change == "value":
            lines[at] = f"{head}{colon} {draw(st.sampled_from(TOKENS))}"
        elif change == "twice":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif change == "away":
            lines[at] = ""
        elif change == "sign":
            place = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:place] + draw(SIGNS) + lines[at][place:]
        elif change == "indent":
            lines[at] = " " * draw(st.integers(0, 5)) + lines[at].lstrip()
        elif change == "line":
            lines.insert(at, draw(st.sampled_from(TOKENS)))
        else:
            lines[at] = lines[at].replace(head.strip(), draw(st.sampled_from(TOKENS)), 1) if head.strip() else lines[at]
    return "\n".join(lines) + "\n"


FIELDS = [*configuration.fields(), "training", "epochs", "x.y", "", "data.paht"]
GOOD = [("training.epochs", ["3"]), ("training.seed", ["7"]), ("model.layers", ["8", "4"]), ("data.path", ["é/x"]),
        ("optimizer.learning_rate", ["1e-3"]), ("evaluation.k", ["1", "20"]), ("training.save_every", ["12"]),
        ("optimizer.clip_norm", ["null"]), ("loss.n_sample", ["12"]), ("training.batch_size", ["64"])]  # fmt: skip
OVERRIDES = st.lists(
    st.sampled_from(GOOD)
    | st.tuples(st.sampled_from(FIELDS), st.lists(TEXTS | st.sampled_from(TOKENS), max_size=2)), min_size=1,
    max_size=3,
).map(lambda pairs: [word for name, words in pairs for word in (f"--{name}", *words)])  # fmt: skip

EVENT_TYPES = ["item_view", "item_like", "buy_comp", "item_vew"]
KNOWN_EVENT = st.fixed_dictionaries(
    {"item": st.integers(0, 420), "event": st.sampled_from(EVENT_TYPES[:3])}, optional={"name": st.just("red dress")}
)
ODD_EVENT = st.fixed_dictionaries({}, optional={
    "item": st.integers(0, 420) | VALUES, "event": st.sampled_from(EVENT_TYPES) | VALUES, "name": TEXTS | VALUES,
    "price": st.floats(0, 100) | VALUES, "c0_id": st.integers(0, 9) | VALUES, "itme": VALUES,
})  # fmt: skip
SEQUENCES = st.lists(KNOWN_EVENT, max_size=4) | st.lists(KNOWN_EVENT | ODD_EVENT, max_size=3)
EVENTS = SEQUENCES | st.lists(SEQUENCES, max_size=2) | VALUES

CELLS = st.sampled_from([
    "1", "2", "3", "7", "10", "0", "-1", "1.5", "7.0", "007", " 1", "a", "b", "A b", "é", "", "nan", "NaN", "null",
    "NULL", "None", "NA", "\\N", "true", "1e5", "1e400", "inf", "-inf", "9" * 25, "9" * 400, "1700000000",
    "1700000060", "1700003600000", "2024-01-31", "2024-01-31 10:00:00", "2024-13-45", "31/01/2024", "20240131",
    "99/1/1", "'x'", "['a', 'b']", "a|b", "x" * 3000, "\x07", "\x00", "\u2028", "\ufeff", ";", "\t",
])  # fmt: skip
SIMPLE = st.sampled_from(["1", "2", "3", "4", "5"])
TIMES = st.integers(1_700_000_000, 1_700_400_000).map(str)


@st.composite
def tables(draw: st.DrawFn, columns: tuple[str, ...], usual: dict[str, Any]) -> tuple[bytes, int | None]:
    """A CSV file, and how many rows it has where nothing about it is odd."""
    odd = draw(st.sampled_from([0.0, 0.03, 0.3]))
    rows = [[draw(CELLS if draw(st.floats(0, 1)) < odd else usual.get(name, SIMPLE)) for name in columns]
            for _ in range(draw(st.integers(0, 24)))]  # fmt: skip
    text = "\n".join(",".join(row) for row in [list(columns), *rows]) + "\n"
    changes = draw(st.sampled_from([0, 0, 1, 2])) if odd else 0
    for _ in range(changes):
        at = draw(st.integers(0, len(text)))
        piece = draw(
            st.sampled_from(
                ['"', '"', "'", ",", "\n", "\r\n", "\r", "\x00", ";", "\t", "\ufeff", '""', "x" * 2000, "\n\n"]
            )
        )
        text = text[:at] + piece + text[at + draw(st.integers(0, 3)) :]
    data = text.encode("utf-8", "surrogatepass")
    if odd and draw(st.integers(0, 9)) == 0:
        data = draw(
            st.sampled_from(
                [data.replace(b"1", b"\xff"), text.encode("utf-16"), b"", b"PAR1" + data, b"\x1f\x8b" + data]
            )
        )
    return data, None if odd else len(rows)


ROWS = tables(("user", "item", "stars", "when", "kind", "tags"),
              {"stars": st.sampled_from(["0", "1", "2", "5"]), "when": TIMES, "tags": st.sampled_from(["a", "a|b",
              ""])})  # fmt: skip
LOGS = tables(("visit", "item", "at"), {"at": TIMES})

MOMENTS = [datetime.datetime(2024, 1, 1, 10, minute) for minute in (0, 1, 2)]
TYPED: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [1, 2, 3]), (pa.int64(), [1, 2, 2**62]), (pa.uint64(), [1, 2, 2**64 - 1]), (pa.uint32(), [1, 2, 3]),
    (pa.float64(), [1.0, 2.0, 2.5]), (pa.float64(), [1.0, 2.0, np.nan]), (pa.float32(), [1.0, np.inf, 3.0]),
    (pa.float16(), [1.0, 2.0, 3.0]), (pa.bool_(), [True, False, True]), (pa.decimal128(20, 2), [1, 2, 3]),
    (pa.string(), ["1", "2", "3"]), (pa.string(), ["a", "007", "é"]), (pa.large_string(), ["1", "2", ""]),
    (pa.string_view(), ["1", "b", "c"]), (pa.binary(), [b"1", b"\xff", b"c"]), (pa.binary(1), [b"1", b"2", b"c"]),
    (pa.dictionary(pa.int8(), pa.string()), ["1", "2", "1"]), (pa.dictionary(pa.int8(), pa.int64()), [1, 2, 3]),
    (pa.date32(), MOMENTS), (pa.date64(), MOMENTS), (pa.timestamp("s"), MOMENTS), (pa.timestamp("ns"), MOMENTS),
    (pa.timestamp("us", "Europe/Paris"), MOMENTS), (pa.timestamp("ms", "UTC"), MOMENTS), (pa.time32("s"), [1, 2, 3]),
    (pa.duration("s"), [1, 2, 3]), (pa.list_(pa.string()), [["a"], ["a", "b"], []]),
    (pa.list_(pa.int64()), [[1], [2], []]),
    (pa.struct([("a", pa.int64())]), [{"a": 1}, {"a": 2}, {"a": 3}]), (pa.map_(pa.string(), pa.int64()), [[], [], []]),
    (pa.null(), [None, None, None]),
]  # fmt: skip


@st.composite
def typed_tables(draw: st.DrawFn) -> tuple[str, list[str], pa.Table]:
    """A source, its options, and a Parquet table of 12 rows whose columns may be of any type."""
    source, words = draw(st.sampled_from(sorted(TYPED_OPTIONS.items())))
    columns = {}
    for name in TYPED_COLUMNS[source]:
        kind, values = draw(st.just(TYPED_USUALLY.get(name, TYPED[1])) | st.sampled_from(TYPED))
        values = [draw(st.sampled_from([*values, values[0]])) for _ in range(12)]
        values = [None if draw(st.integers(0, 40)) == 0 else value for value in values]
        columns[name] = pa.array(values, kind)
    return source, words.split(), pa.table(columns)


TIMES_TYPED = (pa.int64(), [1_700_000_000, 1_700_000_060, 1_700_000_120])
TYPED_USUALLY: dict[str, tuple[pa.DataType, list[Any]]] = {
    "t": TIMES_TYPED, "l": (pa.float64(), [1.0, 3.0]), "b": (pa.list_(pa.string()), [["a"], []]),
    "eventdate": (pa.string(), ["2016-05-09", "2016-05-10"]), "timeframe": (pa.int64(), [1, 20, 300]),
}  # fmt: skip
TYPED_COLUMNS = {"events": ["s", "i", "t"], "rows": ["u", "i", "l", "t", "b"],
                 "diginetica": ["sessionId", "userId", "itemId", "timeframe", "eventdate"]}  # fmt: skip
TYPED_OPTIONS = {
    "events": "--session s --item i --time t --test-days 0 --min-item-support 1",
    "rows": "--user u --item i --label l --time t --bag b --positive 2",
    "diginetica": "--test-days 0 --min-item-support 1",
}

WORDS = [
    "price", "name", "c0_name", "PRICE", "nope", "1", "-2", "3.5", "1e3", "9" * 400, "'a'", "'it''s'", "'", '"',
    '"price"', "=", "<>", "<", "<=", ">", ">=", "and", "or", "not", "in", "between", "like", "ilike", "is null",
    "is not null", "(", ")", "(1, 2)", "('a')", ",", ";", "--", "/*", "union select 1", "select 1", "cast(", "::int",
    "*", "||", "+", "%", "$1", "?", "null", "true", "sum(price)", "read_csv('/etc/passwd')", "price = 2",
    "name = 'a'", "\x00", "\n", "\ud800", "é", "case", "interval '1 day'", "date '2024-01-01'", "[1]", "{'a': 1}",
    "x -> x", "over ()", "a.b", "@", "{", "limit 1", "e'\\x'",
]  # fmt: skip
COMPARISONS = ["=", "<", "<=", ">", ">="]
FILTERS = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join), TEXTS,
    st.tuples(st.sampled_from(["price", "name"]), st.sampled_from(["=", "<", ">=", "like"]), TEXTS).map(" ".join),
    st.tuples(st.just("price"), st.sampled_from(COMPARISONS), st.integers(0, 12).map(str)).map(" ".join),
)  # fmt: skip

NAMES = ["age", "gender", "skin_type", "skin_concern", "user", "kind", "when", "stars", "category", ""]
PROFILES = st.fixed_dictionaries(
    {"fields": st.dictionaries(
        st.sampled_from(NAMES) | TEXTS,
        st.integers(18, 60) | st.sampled_from(["F", "M", "dry", "1", "2", "25", "a", "a|b"]) | VALUES, max_size=3)},
    optional={"user": st.integers(1, 5) | SCALARS, "k": st.integers(1, 5) | st.integers(),
              "exclude": st.lists(SCALARS, max_size=2)},
)  # fmt: skip

SESSIONS = st.fixed_dictionaries(
    {"items": st.one_of(st.lists(st.integers(1, 100), max_size=5), st.lists(SCALARS, max_size=4),
                        st.lists(VALUES, max_size=2))},
    optional={"k": st.integers(1, 10) | st.integers(), "exclude": st.lists(SCALARS, max_size=2),
              "candidates": st.none() | st.lists(st.integers(1, 100), max_size=5) | st.lists(SCALARS, max_size=2)},
)  # fmt: skip

ENTRIES = st.lists(st.fixed_dictionaries({}, optional={
    "product": st.integers(900, 999) | VALUES, "category": st.sampled_from(["cream", "serum"]) | VALUES,
    "price": st.floats(1, 90) | VALUES, "brand": VALUES, "nmae": VALUES}), max_size=2)  # fmt: skip


JSON = [
    '[{"product": 901}]', '[{"product": 902, "price": 3}]', '[{"product": "x", "product": 1}]', "[", "{}", "null", '"x',
    '[{"product": ' + "9" * 5000 + "}]", "[" * 3000, '[{"product": 1e999}]', '[{"product": NaN}]', '[{"\\u0000": 1}]',
    '[{"product": "\\ud800"}]', '[{"product": "a\\nb", "price": 1}]',
]  # fmt: skip


@st.composite
def item_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """The ending and the bytes of a file of new items."""
    ending = draw(st.sampled_from([".json", ".csv", ".parquet", ".txt"]))
    if ending == ".json":
        text = draw(st.sampled_from(JSON))
        return ending, text.encode("utf-8", "surrogatepass")
    data, _ = draw(tables(("product", "category", "price"), {"product": st.integers(900, 999).map(str)}))
    if ending == ".csv" and draw(st.integers(0, 4)) == 0:
        data = data.replace(b"category", b"product", 1)
    return ending, data


OPTIONS = {
    "recommend": ["--items", "--k", "--exclude", "--candidates", "--similar-to", "--json", "--include-seen",
    "--where", "--events",
                  "--profile", "--at", "--add-items", "--seed", "--run"],
    "evaluate": ["--k", "--split", "--data", "--baselines", "--json", "--out", "--folds", "--groups", "--nope"],
    "train": ["--resume", "--overwrite", "--config", "--training.epochs", "--data.path", "--model.layers", "--run"],
    "prepare": ["--raw", "--session", "--item", "--time", "--time-unit", "--delimiter", "--test-days",
    "--min-item-support",
                "--fraction", "--memory-limit", "--threads", "--min-session-length", "--drop-repeats"],
}  # fmt: skip


ALONE = ("--json", "--include-seen", "--resume", "--overwrite", "--drop-repeats")
USUAL = {"--items": ["3", "5"], "--k": ["2"], "--exclude": ["7"], "--split": ["test"], "--test-days": ["0"],
         "--training.epochs": ["3"], "--min-session-length": ["2"], "--threads": ["1"]}  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A command with options that may not go together, and values that may not go with them."""
    name = draw(st.sampled_from(sorted(OPTIONS)))
    words = ["--items", "4"] if name == "recommend" and draw(st.booleans()) else []
    for option in draw(st.lists(st.sampled_from(OPTIONS[name]), min_size=1, max_size=3)):
        if option in ALONE:
            words.append(option)
        elif option in USUAL and draw(st.booleans()):
            words += [option, *USUAL[option]]
        else:
            words += [option, *draw(st.lists(TEXTS | st.integers(-2, 120).map(str), max_size=2))]
    return name, words
