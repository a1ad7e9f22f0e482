"""What every recommender promises, on a run of each kind that an earlier version trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import Compilations, call, fails
from worlds import Worlds

from jaxrec import Answer, Query, Recommender, UserError
from jaxrec.tasks import batches

RUNS = ("gru4rec", "merrec", "autoint", "two_tower")
Made = Callable[[list[Any], int], dict[str, Any]]
QUERIES: dict[str, Made] = {  # the n-th query of a run, from ids of items
    "gru4rec": lambda ids, n: {"items": [ids[(n + 7 * i) % len(ids)] for i in range(n % 20 + 1)]},
    "merrec": lambda ids, n: {"events": [{"item": ids[(n + 7 * i) % len(ids)], "event": "item_view"}
                                         for i in range(n % 6 + 1)]},
    "autoint": lambda ids, n: {"user": n} if n % 2 else {"profile": {"segment": "segment2", "age": 25}},
    "two_tower": lambda ids, n: {"profile": {"age": 20.0 + n, "gender": "FM"[n % 2]}, "items": [ids[n % len(ids)]]},
}  # fmt: skip


@pytest.fixture(params=RUNS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def r(name: str, worlds: Worlds) -> Recommender:
    return Recommender.load(worlds.old(name))


@pytest.fixture(scope="module")
def ask(name: str, r: Recommender) -> Callable[[int], dict[str, Any]]:
    every = ids(r.recommend({}, r.n_items))
    return lambda n: QUERIES[name](sorted(every), n)


def ids(answer: Answer) -> list[Any]:
    return [one.id for one in answer.items]


def near(answer: Answer, other: Answer) -> None:
    assert ids(answer) == ids(other) and answer.notes == other.notes and answer.popular == other.popular
    np.testing.assert_allclose([i.score for i in answer.items], [i.score for i in other.items], rtol=1e-4, atol=1e-5)


def test_what_is_asked_for(r: Recommender, ask: Callable[[int], dict[str, Any]]) -> None:
    query, n = ask(2), r.n_items
    every = r.recommend(query, n, seen=True)
    scores = [one.score for one in every.items]
    assert scores == sorted(scores, reverse=True) and len(set(ids(every))) == len(scores) and not every.notes
    assert len(r.recommend(query).items) == min(20, len(r.recommend(query, n).items))
    assert ids(r.recommend(query, 3, seen=True)) == ids(every)[:3]
    assert set(ids(r.recommend(query, n))) <= set(ids(every)), "what the user has is left out"
    left = r.recommend(query, n, seen=True, exclude=[*ids(every)[:2], "no such item"])
    assert ids(left) == ids(every)[2:] and left.notes == ["exclude: 1 unknown item left out: no such item"]
    pool = r.recommend(query, n, seen=True, only=[*ids(every)[5:0:-2], "no such item"])
    assert ids(pool) == ids(every)[1:6:2] and pool.notes == ["only: 1 unknown item left out: no such item"]
    nothing = r.recommend(query, 5, exclude=ids(every))
    assert not nothing.items and nothing.notes == ["the exclusions, or the time, leave nothing to recommend"]


def test_several_are_one_by_one(r: Recommender, ask: Callable[[int], dict[str, Any]]) -> None:
    queries = [ask(n) for n in range(1, 21)]
    for query, answer in zip(queries, r.recommend(queries, 7), strict=True):
        near(answer, r.recommend(Query.parse(query), 7))
    assert r.recommend([], 7) == []


def test_nothing_known(r: Recommender) -> None:
    answers = [r.recommend({}, 5)]
    if "user" not in r.reads:
        lost = {"items": ["no such item"]} if "items" in r.reads else {"events": [{"item": -1, "event": "item_view"}]}
        answers.append(r.recommend(lost, 5))
        assert answers[1].unknown and "left out" in answers[1].notes[0]
        assert all(one.popular and "most popular" in one.notes[-1] for one in answers)
    assert [ids(one) for one in answers] == [ids(answers[0])] * len(answers) and len(answers[0].items) == 5


def test_what_is_not_read_is_refused(r: Recommender) -> None:
    every = {"items": [1], "events": [{"item": 1}], "user": 1, "profile": {"a": 1}, "at": "2023-05-05"}
    for field in every.keys() - {*r.reads}:
        with pytest.raises(UserError, match=rf"does not read {field}; it reads {r.reads[0]}"):
            r.recommend({field: every[field]})
    with pytest.raises(UserError, match=r"no field 'itmes' \(did you mean 'items'\?\); there are items, events"):
        r.recommend({"itmes": [1]})
    for k in (0, True, 2.5):
        with pytest.raises(UserError, match=rf"^k = {k}: expected 1"):
            r.recommend({}, k)  # type: ignore[arg-type]
    calls: dict[str, tuple[Any, ...]] = {"similar": (1,), "similar_users": ({},), "add": ([],), "explain": ({}, 1),
                                         "score": ([],), "vectors": (), "example": ()}  # fmt: skip
    for what in calls.keys() - r.can:
        with pytest.raises(UserError, match=f"^{what}: .* cannot do that; it has "):
            getattr(r, what)(*calls[what])


def test_few_programs(r: Recommender, ask: Callable[[int], dict[str, Any]]) -> None:
    """Whatever the lengths, k, what is left out, and how many are asked together."""
    random, n = np.random.default_rng(0), min(32, r.n_items)

    def request(size: int, k: int) -> None:
        gone = ids(r.recommend(ask(size), n))[: int(random.integers(5))]
        r.recommend([ask(int(random.integers(1, 40))) for _ in range(size)], k, exclude=gone)

    for size in (1, 16, 300):
        for k in (1, n):
            request(size, k)
    compiled = Compilations()
    for _ in range(12):
        request(int(random.integers(1, 60)), int(random.integers(1, n + 1)))
    assert compiled.count <= 2


# ---- files -----------------------------------------------------------------------------------------------------------


def as_parquet(file: Path, queries: list[dict[str, Any]]) -> Path:
    names = dict.fromkeys(name for query in queries for name in query)  # a table's are those of its first row
    pq.write_table(pa.Table.from_pylist([dict.fromkeys(names) | query for query in queries]), file)
    return file


def as_lines(file: Path, queries: list[Any]) -> Path:
    file.write_text("".join(json.dumps(query) + "\n" for query in queries))
    return file


def test_files_of_queries(
    r: Recommender, ask: Callable[[int], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK", 8)
    queries = [ask(n) | {"id": 100 + n} for n in range(1, 21)]
    expected = r.recommend([{name: one[name] for name in one if name != "id"} for one in queries], 4)
    for source in (as_lines(tmp_path / "q.jsonl", queries), as_parquet(tmp_path / "q.parquet", queries)):
        for out in (tmp_path / "a.parquet", tmp_path / "a.jsonl"):
            done = batches.answer_file(lambda some: r.recommend(some, 4), source, out, overwrite=True)
            assert done == {"answered": 20, "bad": 0}
            text = out.read_text().splitlines() if out.suffix == ".jsonl" else []
            rows = list(map(json.loads, text)) if text else pq.read_table(out).to_pylist()
            assert [row["id"] for row in rows] == [100 + n for n in range(1, 21)]
            for row, answer in zip(rows, expected, strict=True):
                assert (row["items"], row["notes"], row["popular"]) == (ids(answer), answer.notes, answer.popular)
                np.testing.assert_allclose(row["scores"], [one.score for one in answer.items], rtol=1e-4, atol=1e-5)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.jsonl", "a.parquet", "q.jsonl", "q.parquet"]


def test_bad_lines_and_full_disks(worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = worlds.old("gru4rec"), tmp_path / "a.parquet"
    lines: list[Any] = [{"items": [3]}, {"itmes": [3]}, {"items": [3, [4]]}, 7, {"user": 1}, {"items": [5]}]
    source = as_lines(tmp_path / "q.jsonl", lines)
    words: list[Any] = ["recommend", "--run", run, "--queries", source, "--out", out, "--k", 3]
    fails(capsys, *words, names=r"q\.jsonl: line 2: query: no field 'itmes'")
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1
    assert call(*words, "--skip-bad") == 0
    assert "answers to 2 queries; 4 bad ones left out" in capsys.readouterr().out
    assert len(pq.read_table(out)) == 2 and pq.read_table(out).column_names[0] == "items"
    as_lines(tmp_path / "q.jsonl", [{"items": [3]}] * 3)
    fails(capsys, *words, names=r"a\.parquet: exists already; --overwrite replaces it")
    assert call(*words, "--overwrite") == 0 and len(pq.read_table(out)) == 3
    as_parquet(tmp_path / "q.parquet", [{"items": [3], "itmes": 1}])
    refused = {"q.parquet": "column 'itmes' is no field of a query", "none.jsonl": "cannot be read", "q.csv": "end its"}
    for name, names in refused.items():
        fails(capsys, *words[:4], tmp_path / name, "--out", tmp_path / "b.parquet", names=names)
    (tmp_path / "full").mkdir()

    def full(*_: object) -> list[Answer]:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        batches.answer_file(full, tmp_path / "q.jsonl", tmp_path / "full" / "a.jsonl")
    assert not list((tmp_path / "full").iterdir())
