"""The server: what it answers is what the recommender says offline; sessions that are followed; limits, reloads, and
what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Client, same
from worlds import Worlds

from jaxrec import Recommender
from jaxrec.serve.engine import Engine
from jaxrec.serve.sessions import Sessions

Capsys = pytest.CaptureFixture[str]
Made = Callable[[list[Any], np.random.Generator], dict[str, Any]]


def some(ids: list[Any], draw: np.random.Generator, most: int) -> list[Any]:
    """From 1 to ``most`` ids, any of which may come again."""
    return [ids[at] for at in draw.integers(0, len(ids), draw.integers(1, most + 1))]


QUERIES: dict[str, Made] = {
    "gru4rec": lambda ids, draw: {"items": some(ids, draw, 20)},
    "sasrec": lambda ids, draw: {"items": some(ids, draw, 20)},
    "blend": lambda ids, draw: {"items": some(ids, draw, 20)},
    "merrec": lambda ids, draw: {"events": [{"item": one, "event": "item_view"} for one in some(ids, draw, 6)]},
    "autoint": lambda ids, draw: {"user": int(draw.integers(1, 300))},
    "two_tower": lambda ids, draw: {"profile": {"age": float(draw.integers(20, 60)), "gender": "FM"[draw.integers(2)]},
                                    "items": some(ids, draw, 3)},
}  # fmt: skip


@pytest.fixture(params=[*QUERIES], scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engines(worlds: Worlds) -> Iterator[Callable[[str], Engine]]:
    """An engine for each run, kept for the module."""
    made: dict[str, Engine] = {}

    def engine(name: str) -> Engine:
        if name not in made:
            run = worlds.blend() if name == "blend" else worlds.old(name)
            made[name] = Engine(run, Sessions(100, 600.0), most=100_000, deadline=600)
        return made[name]

    yield engine
    for one in made.values():
        one.stop()


@pytest.fixture
def client(name: str, engines: Callable[[str], Engine]) -> Client:
    return Client(engines(name))


@pytest.fixture
def gru(engines: Callable[[str], Engine]) -> Client:
    return Client(engines("gru4rec"))


def offline(r: Recommender, query: Any, k: int = 20, **how: Any) -> Any:
    return r.recommend(query, min(k, r.n_items), **how)


def agree(client: Client, name: str, n: int) -> None:
    r, draw = Recommender.load(client.engine.run), np.random.default_rng(1)
    ids = sorted(r.kind.items.ids.values())[1:]
    queries = [QUERIES[name](ids, draw) for _ in range(n)]
    ks = draw.integers(1, min(40, r.n_items), n).tolist()
    single = [("POST", "/recommend", {"query": one, "k": k}) for one, k in zip(queries, ks, strict=True)]
    for reply, query, k in zip(client.all(*single), queries, ks, strict=True):
        assert reply.status_code == 200, reply.text
        same(reply.json(), offline(r, query, k))
    together = client.post("/recommend", {"queries": queries[:100], "k": 5}).json()["answers"]
    for body, query in zip(together, queries[:100], strict=True):
        same(body, offline(r, query, 5))


def test_answers_are_those_of_the_recommender(client: Client, name: str) -> None:
    agree(client, name, 25)


@pytest.mark.slow
def test_a_thousand_answers_are_those_of_the_recommender(client: Client, name: str) -> None:
    agree(client, name, 1000)


@pytest.mark.parametrize("name", ["gru4rec", "sasrec", "blend", "merrec", "two_tower"])
def test_a_followed_session_is_answered_as_a_whole_one(name: str, client: Client) -> None:
    """Many sessions at once, two clicks of one of them in the same moment, unknown items among them."""
    r, draw = Recommender.load(client.engine.run), np.random.default_rng(2)
    ids = sorted(r.kind.items.ids.values())[1:]
    clicks = [[*some(ids, draw, 12), "no such item", ids[0]] for _ in range(20)]
    event = {"event": "item_view"} if name == "merrec" else {}
    for step in range(14):
        moved = [n for n, one in enumerate(clicks) if step < len(one)]
        replies = client.all(*(("POST", f"/sessions/{name}-{n}/events", {"item": clicks[n][step], "k": 7} | event)
                               for n in moved))  # fmt: skip
        for n, reply in zip(moved, replies, strict=True):
            past = clicks[n][: step + 1]
            query = {"events": [{"item": one} | event for one in past]} if event else {"items": past}
            answer = offline(r, query, 7)
            assert reply.status_code == 200, reply.text
            same(reply.json() | {"notes": answer.notes}, answer)
            assert bool(reply.json()["notes"]) >= (past[-1] == "no such item")
    at_once = client.all(*(("POST", "/sessions/twice/events", {"item": one, "k": 5} | event) for one in ids[:3]))
    assert [reply.status_code for reply in at_once] == [200] * 3
    more = client.post("/sessions/twice/events", {"k": 5}).json()["recommendations"]  # no further click
    query = {"events": [{"item": one} | event for one in ids[:3]]} if event else {"items": ids[:3]}
    assert [row["item"] for row in more] == [item.id for item in offline(r, query, 5).items]
    assert client.all(("DELETE", "/sessions/twice", None))[0].status_code == 204
    assert client.all(("DELETE", "/sessions/twice", None))[0].status_code == 404


def test_what_is_asked_for_is_heard(gru: Client) -> None:
    r = Recommender.load(gru.engine.run)
    ids = sorted(r.kind.items.ids.values())
    first = [item.id for item in r.recommend({"items": ids[:2]}, 6).items]
    how = {"exclude": first[:2], "only": first[1:], "seen": True}
    body = gru.post("/recommend", {"query": {"items": ids[:2]}, "k": 3, **how}).json()
    assert [row["item"] for row in body["recommendations"]] == first[2:5]
    similar = gru.post("/similar", {"item": ids[3], "k": 4}).json()["recommendations"]
    assert [row["item"] for row in similar] == [item.id for item in r.similar(ids[3], 4).items]
    assert gru.post("/recommend", {"query": {}}).json()["popularity"]


DEEP = b'{"query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(("path", "body", "status", "message"), [
    ("recommend", b"", 400, "empty"), ("recommend", b"{", 400, "not JSON"), ("recommend", b"[]", 400, "no JSON object"),
    ("recommend", b'{"query": {"items": [NaN]}}', 400, "NaN"), ("recommend", b'{"k": 1e400}', 400, "1e400"),
    ("recommend", b'{"k": 1, "k": 2}', 400, "twice"), ("recommend", b'{"k": %s}' % (b"9" * 5000), 400, "not JSON"),
    ("recommend", DEEP, 400, "nested too deeply"), ("recommend", b"\xff", 400, "not JSON"),
    ("recommend", b'{"query": "%s"}' % (b"a" * 2**20), 413, "1,048,576 bytes"),
    ("recommend", {}, 422, "query: give either"), ("recommend", {"query": {}, "queries": []}, 422, "query: give"),
    ("recommend", {"query": {"items": [[1]]}}, 422, "query.items.0: "),
    ("recommend", {"query": {"items": [True]}}, 422, "query.items.0: "),
    ("recommend", {"query": {"items": list(range(100_000))}}, 422, "query.items: list should have at most 1000"),
    ("recommend", {"query": {"itms": [1]}}, 422, "query.itms: "), ("recommend", {"query": 3}, 422, "query: "),
    ("recommend", {"query": {"user": 3}}, 422, "does not read user; it reads items"),
    ("recommend", {"queries": [{}] * 257}, 422, "queries: "),
    ("recommend", b'{"query": {"items": ["\\ud800"]}}', 422, "query.items.0: "),
    ("recommend", {"query": {}, "k": 0}, 422, "k: "), ("recommend", {"query": {}, "k": "3"}, 422, "k: "),
    ("recommend", {"query": {}, "k": 1000}, 422, "k = 1000: expected 1 to"),
    ("recommend", {"query": {}, "only": "price <"}, 422, ""), ("recommend", {"query": {}, "only": []}, 422, "only: "),
    ("recommend", {"query": {"items": [1], "times": [1, 2]}}, 422, "times: found 2 for 1"),
    ("recommend", {"queries": [{}] * 100, "k": 201}, 422, "queries: 100 of them for k = 201 are more than"),
    ("sessions/x/events", {"item": 1, "attributes": {"a": "b" * 5000}}, 422, "event: has 5,"),
    ("sessions/x/events", {"item": 1, "only": ["nothing"]}, 422, "only: none of them is known"),
    ("similar", {}, 422, "item: "), ("similar", {"item": "no such"}, 422, "no such"),
    ("items", {"items": [{"id": 1}]}, 422, "add: a run of gru4rec cannot do that"),
    ("sessions/x/events", {"item": 1, "event": "view"}, 422, "event: this run reads of a session's events item and"),
    ("sessions/x/events", {"time": 1}, 422, "item: is missing"), (f"sessions/{'x' * 201}/events", {}, 422, "session: "),
    ("nothing", {}, 404, "Not Found"), ("docs", {}, 405, "Method Not Allowed"),
])  # fmt: skip
def test_bad_input_is_one_line(path: str, body: Any, status: int, message: str, gru: Client) -> None:
    reply = gru.post(f"/{path}", body)
    error = reply.json()
    assert reply.status_code == status and message in error["error"], error
    assert set(error) == {"error", "field"} and "\n" not in error["error"] and "Traceback" not in reply.text
    assert message.split(": ")[0] == error["field"] if status == 422 and message.endswith(": ") else True
    assert gru.post("/recommend", {"query": {}, "k": 1}).status_code == 200
    assert "x" not in dict(gru.engine.sessions)


def test_a_refused_event_is_not_kept(gru: Client) -> None:
    ids = sorted(gru.engine.recommender.kind.items.ids.values())
    for body, status in (
        ({"item": ids[0]}, 200),
        ({"item": ids[1], "only": ["nothing"]}, 422),
        ({"item": ids[2]}, 200),
    ):
        reply = gru.post("/sessions/refused/events", body)
        assert reply.status_code == status
    same(reply.json(), Recommender.load(gru.engine.run).recommend({"items": [ids[0], ids[2]]}))


def test_long_sessions_are_followed_from_anywhere(gru: Client) -> None:
    """As after a reload: 40 clicks at once, of others one or 17."""
    kind, draw = gru.engine.recommender.kind, np.random.default_rng(3)
    clicks = [draw.integers(0, len(kind.items), n).tolist() for n in (40, 1, 17, 0, 16)]
    at_once = kind.follow([None] * 5, clicks)
    one_by_one: list[Any] = [None] * 5
    for step in range(40):
        one_by_one = kind.follow(one_by_one, [one[step : step + 1] for one in clicks])
    for state, other in zip(at_once, one_by_one, strict=True):
        np.testing.assert_allclose(state.query, other.query, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.carry[0], other.carry[0], rtol=1e-5, atol=1e-6)


def test_moments_beyond_the_calendar(engines: Callable[[str], Engine]) -> None:
    client = Client(engines("autoint"))
    for at in ("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"):
        reply = client.post("/recommend", {"query": {"user": 1, "at": at}})
        assert reply.status_code == 422 and reply.json()["field"] == "at"


def test_sessions_of_a_run_that_reads_no_items(engines: Callable[[str], Engine]) -> None:
    reply = Client(engines("autoint")).post("/sessions/a/events", {"item": 1})
    assert reply.status_code == 422 and "ask /recommend" in reply.json()["error"]


def test_content_types(gru: Client) -> None:
    """What ``curl -d`` sends is read, but not from a page of another site, which can send it without asking."""

    def send(kind: str, **headers: str) -> int:
        async def ask() -> int:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(gru.app), base_url="http://test") as client:
                reply = await client.post("/recommend", content=b'{"query": {}, "k": 1}',
                                          headers={"content-type": kind, **headers})  # fmt: skip
                return int(reply.status_code)

        return asyncio.run(ask())

    form = "application/x-www-form-urlencoded"
    assert [send("application/json; charset=utf-8"), send(form), send(form, origin="http://evil")] == [200, 200, 415]
    assert send("text/plain") == send("multipart/form-data") == 415


def test_a_token(gru: Client) -> None:
    client = Client(gru.engine, token="secret")
    assert client.post("/recommend", {"query": {}}).status_code == 401
    assert client.post("/recommend", {"query": {}}, authorization="Bearer secre").status_code == 401
    assert client.post("/recommend", {"query": {}}, authorization="Bearer secret").status_code == 200
    statuses = [client.all(("GET", path, None))[0].status_code for path in ("/", "/docs", "/healthz", "/metrics")]
    assert statuses == [200, 200, 200, 401]


def test_a_fault_of_ours_tells_nothing(gru: Client, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    """It is logged, and the others of its batch are answered."""
    read = gru.engine.recommender.kind.best

    def best(inputs: Any, *rest: Any) -> Any:
        if any(len(one.what) == 9 for one in inputs):
            raise RuntimeError("secret")
        return read(inputs, *rest)

    monkeypatch.setattr(gru.engine.recommender.kind, "best", best)
    queries = [{"items": [1] * n} for n in (3, 9, 2)]
    replies = gru.all(*(("POST", "/recommend", {"query": one}) for one in queries))
    assert [reply.status_code for reply in replies] == [200, 500, 200] and "secret" not in replies[1].text
    assert "RuntimeError: secret" in capsys.readouterr().err


def test_a_followed_session_survives_a_fault(gru: Client, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    kind = gru.engine.recommender.kind
    ids = sorted(kind.items.ids.values())
    with monkeypatch.context() as patch:
        patch.setattr(kind, "follow", lambda *_: 1 // 0)
        assert gru.post("/sessions/fault/events", {"item": ids[0]}).status_code == 500
    body = gru.post("/sessions/fault/events", {"item": ids[1]}).json()
    same(body, Recommender.load(gru.engine.run).recommend({"items": ids[:2]}))
    capsys.readouterr()


def measured(client: Client, line: str) -> str:
    """The measures, once a line stands among them: a batch is measured after its replies have gone out."""
    until = time.monotonic() + 30
    while line not in (text := client.all(("GET", "/metrics", None))[0].text):
        assert time.monotonic() < until, text
        time.sleep(0.01)
    return str(text)


def test_what_is_measured_and_logged(gru: Client) -> None:
    lines: list[str] = []
    client = Client(gru.engine, log=lines.append)
    client.all(*(("POST", "/recommend", {"query": {}}) for _ in range(3)), ("GET", "/nothing", None))
    text = measured(client, "jaxrec_batch_queries_sum 3.0")
    assert 'jaxrec_requests_total{route="/recommend",status="200"} 3.0' in text
    assert "jaxrec_pending_queries 0.0" in text
    rows = [json.loads(line) for line in lines]
    assert sorted(row["status"] for row in rows)[-1] == 404 and [row["status"] for row in rows].count(200) >= 4
    assert rows[0].keys() == {"time", "method", "path", "status", "ms", "client"}
