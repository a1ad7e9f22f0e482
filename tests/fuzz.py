"""A fuzzer of everything that people hand in: whatever it is, jaxrec answers, or refuses it in one line.

python tests/fuzz.py 5000            # so many inputs of all kinds; says what was answered, refused, and failed
python tests/fuzz.py 500 rows events # of these kinds alone
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

import fuzz_inputs as inputs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from event_data import fake_encoded, fake_find_model
from fuzz_world import World
from helpers import MAINS
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from jaxrec import config as configuration
from jaxrec.cli.command import command
from jaxrec.cli.yaml_text import parse_yaml
from jaxrec.data.codes import UnknownValues
from jaxrec.data.dataset import open_dataset
from jaxrec.data.filters import matching
from jaxrec.errors import LONGEST, UserError
from jaxrec.personas.rules import read_rules
from jaxrec.tasks.events import listings
from jaxrec.tasks.vectors import UnknownItems
from jaxrec.tune.search_space import load_space

HANGS = 20  # seconds of one input
TABLE = pa.table({
    "price": pa.array([1.0, 2.0, 5.0, 10.0, None]), "name": ["a", "b", "it's", "é", None],
    "c0_name": ["x", "x", "y", "y", "z"],
})  # fmt: skip


# ---- what is tried ---------------------------------------------------------------------------------------------------


def configurations(world: World, text: str) -> None:
    """What is read is what is written: it is dumped and read again, and every number is that of the file."""
    file = world.root / "c.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    config = configuration.load(file)
    for section, part in parse_yaml(text, "text").items():
        for name, value in part.items():
            if isinstance(value, (int, float)):
                assert getattr(getattr(config, section), name) == value
    file.write_text(configuration.dump(config), encoding="utf-8")
    assert configuration.load(file) == config


def overrides(world: World, words: list[str]) -> None:
    config = configuration.load(world.base, words)
    for place, word in enumerate(words[:-1]):
        value = words[place + 1]
        if word.startswith("--training.") and value.isascii() and value.isdecimal():
            assert getattr(config.training, word[11:]) == int(value)
    file = world.root / "c.yaml"
    file.write_text(configuration.dump(config), encoding="utf-8")
    assert configuration.load(file) == config


def spaces(world: World, text: str) -> None:
    file = world.root / "s.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    space = load_space(file)
    assert set(space.entries) == {one.field for one in space.parameters} | set(space.fixed)
    assert all(one.probes() for one in space.parameters)


def personas(world: World, text: str) -> None:
    file = world.root / "p.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    names = [rule.name for rule in read_rules(file)]
    assert len(set(names)) == len(names)


def events(world: World, sequence: Any) -> None:
    with (
        mock.patch.object(listings, "find_model", fake_find_model),
        mock.patch.object(listings, "encoded", fake_encoded),
    ):
        answer = world.market.recommend(sequence, k=3)
    several = isinstance(sequence[0], (list, tuple))
    for one, given_events in zip(answer if several else [answer], sequence if several else [sequence], strict=True):
        _check_ranking([(found.item, found.score) for found in one], 3)
        bought = {event.get("item") for event in given_events if event["event"] == "buy_comp"}
        assert not bought & {found.item for found in one}


def filters(world: World, text: str) -> None:
    rows, _ = matching(TABLE, text)
    assert len(rows) and np.array_equal(rows, np.unique(rows)) and rows.max() < len(TABLE)
    words = text.split(" ")
    if len(words) == 3 and words[0] == "price" and words[2].isdecimal():
        compare = {"=": np.equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[words[1]]
        assert rows.tolist() == np.flatnonzero(compare([1.0, 2.0, 5.0, 10.0, np.nan], int(words[2]))).tolist()


def click_profiles(world: World, case: dict[str, Any]) -> None:
    chosen = {"k": 3} | {name: value for name, value in case.items() if name != "fields"}
    found = world.clicks.recommend(profile=case["fields"], **chosen)
    _check_ranking([(one.item, one.probability) for one in found], chosen["k"])
    assert all(0 <= one.probability <= 1 for one in found)


def tower_profiles(world: World, case: dict[str, Any]) -> None:
    chosen = {"k": 3} | {name: value for name, value in case.items() if name != "fields"}
    found = world.shop.recommend(case["fields"], **chosen)
    _check_ranking([(one.item, one.score) for one in found], chosen["k"])


def sessions(world: World, case: dict[str, Any]) -> None:
    answer = world.sessions.recommend({"items": case["items"]}, case.get("k", 3), exclude=case.get("exclude", ()),
                                      only=case.get("candidates"))  # fmt: skip
    _check_ranking([(one.id, one.score) for one in answer.items], case.get("k", 3))
    if case.get("candidates") is not None:
        assert {str(one.id) for one in answer.items} <= set(map(str, case["candidates"]))


def _check_ranking(found: list[tuple[Any, float]], k: int) -> None:
    assert len(found) <= k and len({item for item, _ in found}) == len(found)
    scores = [float(score) for _, score in found]
    assert np.isfinite(scores).all() and scores == sorted(scores, reverse=True)


def new_items(world: World, case: Any) -> None:
    shop = copy.copy(world.shop)
    shop._ids, shop._known = list(shop._ids), dict(shop._known)
    before = shop.n_items
    if isinstance(case, tuple):
        file = world.root / f"items{case[0]}"
        file.write_bytes(case[1])
        case = file
    added = shop.add_items(case)
    assert shop.n_items == before + len(added)


def rows(world: World, case: tuple[bytes, int | None]) -> None:
    words = "--user user --item item --label stars --time when --categorical kind --bag tags --positive 2"
    manifest = _prepared(world, "rows", case[0], words.split())
    if case[1] is not None:
        assert manifest["counts"]["rows"] == case[1]


def event_logs(world: World, case: tuple[bytes, int | None]) -> None:
    words = ["--session", "visit", "--item", "item", "--time", "at", "--test-days", "0", "--min-item-support", "1"]
    manifest = _prepared(world, "events", case[0], words)
    if case[1] is not None:
        lines = [line.split(",") for line in case[0].decode().splitlines()[1:]]
        visits = Counter(line[0] for line in lines)
        assert manifest["counts"]["train"]["events"] == sum(n for n in visits.values() if n > 1)


def typed_tables(world: World, case: tuple[str, list[str], pa.Table]) -> None:
    source, words, table = case
    file, out = world.root / "typed.parquet", world.empty / "data"
    pq.write_table(table, file)
    _run(world, "prepare", [source, "--raw", str(file), "--out", str(out), *words], kept=("data",))
    dataset = open_dataset(out)
    dataset.verify()
    if source == "rows":
        assert dataset.manifest["counts"]["rows"] == len(table)


def _prepared(world: World, source: str, data: bytes, words: list[str]) -> dict[str, Any]:
    raw, out = world.root / "raw.csv", world.empty / "data"
    raw.write_bytes(data)
    _run(world, "prepare", [source, "--raw", str(raw), "--out", str(out), *words], kept=("data",))
    dataset = open_dataset(out)
    dataset.verify()
    return dataset.manifest


def command_lines(world: World, case: tuple[str, list[str]]) -> None:
    name, words = case
    run = [] if "--run" in words else ["--run", str(world.empty / "run" if name == "train" else world.session_run)]
    if name == "prepare":
        run = ["events", "--out", str(world.empty / "data")]
        for option in ("--raw", "--session", "--item", "--time"):
            run += [] if option in words else [option, str(world.root / "log.csv") if option == "--raw" else option[2:]]
        (world.root / "log.csv").write_text(
            "session,item,time\n1,2,1700000000\n1,3,1700000060\n2,3,1700000000\n2,2,1700000001\n"
        )
    if name == "evaluate" and "--json" not in words:
        run.append("--json")
    if name == "train" and "--config" not in words:
        run += ["--config", str(world.base)]
    here = Path.cwd()
    os.chdir(world.empty)
    try:
        written = {words[at + 1] for at, word in enumerate(words[:-1]) if word == "--out"}
        out = _run(world, name, [*run, *words], kept=("data", *written))
    finally:
        os.chdir(here)
    if "--json" in words:
        json.loads(out)


def _run(world: World, name: str, words: list[str], kept: tuple[str, ...] = ()) -> str:
    """What a command prints; its one line where it refuses. Nothing is left in ``empty`` but what it has made whole."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command(MAINS[name], words)
    lines = err.getvalue().split("\n")
    left = sorted(entry.name for entry in world.empty.iterdir())
    if status:
        assert status == 2 and lines[-1] == "" and lines[-2].startswith("jaxrec: error: "), err.getvalue()
        assert not left, f"left behind: {left}"
        raise UserError(lines[-2])
    assert all(line.startswith("jaxrec: ") for line in lines[:-1]) and set(left) <= set(kept)
    return out.getvalue()


# ---- trying ----------------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Callable[[World, Any], None], st.SearchStrategy[Any], str]] = {
    "configurations": (configurations, inputs.damaged(inputs.CONFIGS), "base"),
    "overrides": (overrides, inputs.OVERRIDES, "base"),
    "spaces": (spaces, inputs.damaged(inputs.SPACES), "base"),
    "personas": (personas, inputs.damaged(inputs.RULES), "base"),
    "events": (events, inputs.EVENTS, "market"),
    "filters": (filters, inputs.FILTERS, "base"),
    "click profiles": (click_profiles, inputs.PROFILES, "clicks"),
    "tower profiles": (tower_profiles, inputs.PROFILES, "shop"),
    "sessions": (sessions, inputs.SESSIONS, "sessions"),
    "new items": (new_items, inputs.item_files() | inputs.ENTRIES, "shop"),
    "rows": (rows, inputs.ROWS, "empty"),
    "event logs": (event_logs, inputs.LOGS, "empty"),
    "typed tables": (typed_tables, inputs.typed_tables(), "empty"),
    "command lines": (command_lines, inputs.command_lines(), "session_run"),
}
"""What tries an input, the inputs, and what of the world it needs."""


def attempt(world: World, kind: str, case: Any) -> str:
    """Whether an input is ``answered`` or ``refused``; anything else is an error."""
    for left in world.empty.iterdir():
        _remove(left)
    with warnings.catch_warnings(), _in_time():
        for category in (UnknownItems, UnknownValues):
            warnings.simplefilter("ignore", category)
        try:
            KINDS[kind][0](world, case)
        except UserError as error:
            message = str(error)
            assert message and len(message) <= LONGEST + 20, f"{len(message)} characters"
            assert all(one.isprintable() or unicodedata.category(one) == "Zs" for one in message), repr(message)
            return "refused"
    return "answered"


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {HANGS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(
    world: World, kind: str, examples: int, one: Callable[[World, str, Any], str] = attempt, number: int | None = None
) -> Counter[str]:
    """Try so many inputs of a kind; the same ones each time, or those of a number."""
    counts: Counter[str] = Counter()
    getattr(world, KINDS[kind][2])  # made before the clock of an input runs

    @settings(max_examples=examples, derandomize=number is None, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(KINDS[kind][1])
    def each(case: Any) -> None:
        counts[one(world, kind, case)] += 1

    (each if number is None else seed(number)(each))()
    return counts


def main(words: list[str]) -> int:
    number = int(os.environ.get("FUZZ_SEED", "0")) if "FUZZ_SEED" in os.environ else None
    examples, kinds = int(words[0]), [word.replace("-", " ") for word in words[1:]] or list(KINDS)
    failures: dict[str, tuple[str, str]] = {}

    def collect(world: World, kind: str, case: Any) -> str:
        try:
            return attempt(world, kind, case)
        except Exception as error:
            ours = [
                frame
                for frame in traceback.extract_tb(error.__traceback__)
                if "jaxrec" in frame.filename or "fuzz" in frame.filename
            ]
            where = f"{kind}: {type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"
            failures.setdefault(where, (repr(case)[:300], "".join(traceback.format_exception(error))[-2500:]))
            return "FAILED"

    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as root:
        world, total = World(Path(root)), Counter[str]()
        os.environ.setdefault("JAXREC_CACHE", f"{root}/cache")
        for kind in kinds:
            begin = time.perf_counter()
            counts = fuzz(world, kind, -(-examples // len(kinds)), collect, number)
            total += counts
            print(f"{kind:16} {dict(counts)} in {time.perf_counter() - begin:.0f} s", flush=True)
    for where, (case, trace) in failures.items():
        print(f"\n=== {where}\n{case}\n{trace}")
    print(f"\n{sum(total.values())} inputs: {dict(total)}; {len(failures)} places")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
