"""The server as it goes on: too many requests, sessions that go and come, newer versions of the run, the process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import fails, spawn
from serving import Client, Request, same
from worlds import Worlds

from jaxrec import Recommender, UserError
from jaxrec.serve.__main__ import fingerprint
from jaxrec.serve.engine import Engine
from jaxrec.serve.sessions import Sessions, write_snapshot

Capsys = pytest.CaptureFixture[str]


# ---- too much ----------------------------------------------------------------------------------------------------


def settled(engine: Engine) -> None:
    """Replies go out before they are counted off."""
    until = time.monotonic() + 30
    while engine.pending:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_too_many_are_refused_and_late_ones_too(worlds: Worlds) -> None:
    engine = Engine(worlds.old("gru4rec"), Sessions(10, 600.0), most=5, deadline=60)
    client, held = Client(engine), threading.Event()
    ask: Request = ("POST", "/recommend", {"query": {}})
    best = engine.recommender.kind.best

    def slowly(*rest: Any) -> Any:
        held.wait(1.0)
        return best(*rest)

    engine.recommender.kind.best = slowly
    replies = client.all(*[ask] * 12, ("GET", "/healthz", None))
    assert sorted(reply.status_code for reply in replies) == [200] * 6 + [429] * 7
    assert {reply.headers["retry-after"] for reply in replies if reply.status_code == 429} == {"1"}
    settled(engine)
    whole = client.post("/recommend", {"queries": [{}] * 9})  # more than the queue holds, but nothing else is there
    assert whole.status_code == 200 and len(whole.json()["answers"]) == 9

    engine._deadline = -1.0
    assert client.post("/recommend", {"query": {}}).status_code == 429
    settled(engine)
    engine.stop()


def test_sessions_go_by_age_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    sessions = Sessions(3, 10.0)
    for name in "abcad":
        sessions.touch(name).clicks.append({"item": name})
        now[0] += 1
    assert [name for name, _ in sessions] == ["c", "a", "d"] and sessions.evicted == 1
    now[0] = 13.5  # a was used at 3
    assert not sessions.touch("c").clicks and [name for name, _ in sessions] == ["d", "c"]
    assert sessions.end("d") and not sessions.end("d")


def test_a_snapshot_brings_sessions_back(worlds: Worlds, tmp_path: Path, capsys: Capsys) -> None:
    run, file, answers = worlds.old("gru4rec"), tmp_path / "sessions.jsonl", []
    ids = sorted(Recommender.load(run).kind.items.ids.values())
    for clicks in (ids[:3], ids[3:4]):
        sessions = Sessions(10, 600.0)
        if file.exists():
            sessions.restore(file)
        client = Client(engine := Engine(run, sessions))
        answers += [client.post("/sessions/a/events", {"item": one}).json() for one in clicks]
        write_snapshot(file, sessions.rows())
        engine.stop()
    same(answers[-1], Recommender.load(run).recommend({"items": ids[:4]}))
    file.write_text(file.read_text() + '{"id": "b"}\n')
    with pytest.raises(UserError, match=r"sessions\.jsonl: line 2: no session"):
        Sessions(10, 600.0).restore(file)
    fails(capsys, "serve", "--run", run, "--port", 0, "--snapshot", file, names=r"sessions\.jsonl: line 2: ")


# ---- reloading ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(worlds: Worlds, tmp_path: Path) -> Iterator[Engine]:
    shutil.copytree(worlds.old("two_tower"), run := tmp_path / "run")
    engine = Engine(run, Sessions(10, 600.0), deadline=60)
    yield engine
    engine.stop()


def test_a_reload_keeps_sessions_and_added_items(copied: Engine) -> None:
    client, ids = Client(copied), sorted(map(str, copied.recommender.kind.items.ids.values()))
    name = copied.recommender.kind._goods.name
    assert client.post("/items", {"items": [{name: "new one"}]}).json()["added"] == ["new one"]
    assert client.post("/items", {"items": [{name: "new one"}]}).status_code == 422
    before = client.post("/sessions/a/events", {"item": ids[0], "k": 5}).json()
    items, marks = copied.recommender.n_items, fingerprint(copied.run)
    assert client.post("/reload", None).json() == {"version": 1}
    assert copied.recommender.n_items == items and fingerprint(copied.run) == marks
    assert client.post("/sessions/a/events", {"k": 5}).json() == before
    os.utime(copied.run / "config.yaml")
    assert fingerprint(copied.run) != marks


def test_a_run_that_cannot_be_loaded_leaves_the_old_one(copied: Engine, capsys: Capsys) -> None:
    client = Client(copied)
    before = client.post("/recommend", {"query": {}}).json()
    for file in copied.run.glob("state/*/*/model/**/*"):
        if file.is_file():
            file.write_bytes(b"half")
    for gone in (False, True):
        if gone:
            shutil.rmtree(copied.run)
        reply = client.post("/reload", None)
        assert reply.status_code == 409 and str(copied.run) in reply.json()["error"]
        health = client.all(("GET", "/healthz", None))[0].json()
        assert health["version"] == 0 and health["reload_error"] == reply.json()["error"]
        assert client.post("/recommend", {"query": {}}).json() == before
    capsys.readouterr()


def test_a_page_of_another_site_cannot_reload(copied: Engine) -> None:
    assert Client(copied).post("/reload", None, origin="http://evil").status_code == 403


def test_the_engine_outlives_a_version_that_fails(copied: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails at the last moment, when it takes items that came while it was loaded."""
    client, change = Client(copied), "jaxrec.serve.engine.with_items"
    monkeypatch.setattr(change, lambda r, rows: r if threading.current_thread().name != "engine" else 1 // 0)
    assert client.post("/reload", None).status_code == 409 and "ZeroDivisionError" in copied.error
    monkeypatch.undo()
    assert client.post("/reload", None).json() == {"version": 1} and not copied.error


def test_two_reloads_at_once_and_requests_meanwhile(copied: Engine) -> None:
    ask: Request = ("POST", "/recommend", {"query": {}})
    replies = Client(copied).all(("POST", "/reload", None), ("POST", "/reload", None), *[ask] * 30)
    assert sorted(reply.status_code for reply in replies[:2]) == [200, 409]
    assert {reply.status_code for reply in replies[2:]} == {200} and copied.version == 1


# ---- the process -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_is_stopped_and_killed(worlds: Worlds, tmp_path: Path, capsys: Capsys) -> None:
    """Also one whose port is taken; sessions outlive SIGKILL by their last snapshot."""
    run, file = worlds.old("gru4rec"), tmp_path / "sessions.jsonl"
    ids = sorted(Recommender.load(run).kind.items.ids.values())
    started = []

    def start() -> tuple[subprocess.Popen[str], str]:
        process = spawn("serve", "--run", run, "--port", 0, "--snapshot", file, "--snapshot-every", 0.2)
        assert process.stdout is not None
        started.append(process)
        return process, process.stdout.readline().partition(": ")[0]

    server, address = start()
    port = int(address.rpartition(":")[2])
    fails(capsys, "serve", "--run", run, "--port", port, names=f"--port {port}: cannot listen")
    assert httpx.post(f"{address}/sessions/a/events", json={"item": ids[0]}).status_code == 200
    deadline = time.monotonic() + 30
    while not file.exists() or ids[0] not in [click["item"] for line in file.read_text().splitlines()
                                              for click in json.loads(line)["clicks"]]:  # fmt: skip
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.send_signal(signal.SIGKILL)
    server.wait()
    server, address = start()
    body = httpx.post(f"{address}/sessions/a/events", json={"item": ids[1]}).json()
    same(body, Recommender.load(run).recommend({"items": ids[:2]}))
    server.send_signal(signal.SIGTERM)
    out, err = server.communicate(timeout=60)
    assert server.returncode == 0 and out.endswith("1 sessions\n") and not err
    for process in started:
        process.kill()
        process.communicate()


def test_errors_of_the_command(tmp_path: Path, capsys: Capsys) -> None:
    fails(capsys, "serve", "--run", tmp_path / "none", "--port", 0, names="no run here")
    fails(capsys, "serve", "--run", "a", "--port", 70000, names="expected a whole number from 0 to 65535")
    fails(capsys, "serve", "--run", "a", "--port", 0, "--snapshot", tmp_path, names="a directory; name a file")
    fails(
        capsys, "serve", "--run", "a", "--port", 0, "--token-env", "NO_SUCH", names="--token-env NO_SUCH: no such env"
    )
    fails(capsys, "serve", "--run", "a", "--port", 0, "--host", "a" * 64, names="cannot listen at aaaa")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails(capsys, "serve", "--run", "a", "--port", port, names=f"--port {port}: cannot listen at 127")
