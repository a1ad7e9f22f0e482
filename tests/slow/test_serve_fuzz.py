"""What strangers send to a server: requests generated from its own OpenAPI document, and bodies of any kind."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from worlds import Worlds

from jaxrec.serve.app import make_app
from jaxrec.serve.engine import Engine
from jaxrec.serve.sessions import Sessions

pytestmark = pytest.mark.slow
SCRAPS: list[Any] = [
    None, True, 0, -1, 1, 7, 2**31, 2**63, 2**64, -(2**63), 1e308, 0.5, "", "1", " 1 ", "item_view", "\0", "\u2028",
    "a" * 500, "é", "price < 3", "id=1", [], {}, [[]], [None], [1, 2, 3], [1] * 1001, {"item": 1, "event": "item_view"},
    {"": {}}, "2023-05-31", "9999-12-31T23:59:59Z", "-1", 1685557800, 10**18,
]  # fmt: skip
NAMES = ("query", "queries", "k", "exclude", "only", "seen", "rules", "items", "events", "user", "profile", "at",
         "times", "item", "time", "event", "name", "attributes", "id", "age", "x")  # fmt: skip
PATHS = ("/recommend", "/similar", "/items", "/sessions/a/events", "/sessions/%00/events", "/reload")


@pytest.fixture(params=["gru4rec", "merrec", "autoint", "two_tower"])
def app(request: pytest.FixtureRequest, worlds: Worlds) -> Iterator[Any]:
    engine = Engine(worlds.old(request.param), Sessions(100, 600.0), most=10_000, deadline=60)
    yield make_app(engine)
    engine.stop()


def test_no_request_of_the_document_is_a_fault(app: Any) -> None:
    schema, statuses = schemathesis.openapi.from_asgi("/openapi.json", app), Counter[int]()

    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]

        @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy())
        def ask_one(case: Any) -> None:
            response = case.call(app=app)
            statuses[response.status_code] += 1
            case.validate_response(response, checks=(not_a_server_error,))

        ask_one()
    assert statuses[200] and statuses[422] and sum(statuses.values()) > 200, statuses


def scrap(draw: np.random.Generator, depth: int = 0) -> Any:
    """A value of any kind, in which names of the interface stand."""
    kind = draw.integers(4) if depth < 4 else 0
    if kind == 1:
        return [scrap(draw, depth + 1) for _ in range(draw.integers(4))]
    if kind >= 2 or not depth:
        return {str(draw.choice(NAMES)): scrap(draw, depth + 1) for _ in range(draw.integers(1, 4))}
    return SCRAPS[draw.integers(len(SCRAPS))]


def body(draw: np.random.Generator) -> bytes:
    """JSON of a scrap, now and then with some bytes of it changed."""
    text = bytearray(json.dumps(scrap(draw)).encode())
    for _ in range(draw.integers(1, 4) if draw.random() < 0.2 else 0):
        text[draw.integers(len(text))] = draw.integers(256)
    return bytes(text)


def test_no_body_is_a_fault(app: Any) -> None:
    draw, statuses = np.random.default_rng(0), Counter[int]()

    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            for _ in range(500):  # and as many for each kind of run
                content = body(draw)
                path = PATHS[draw.integers(len(PATHS) - 1 if draw.random() < 0.9 else len(PATHS))]
                reply = await client.post(path, content=content, headers={"content-type": "application/json"})
                statuses[reply.status_code] += 1
                assert reply.status_code < 500, (path, content, reply.text)
                assert reply.json() is not None

    asyncio.run(ask())
    assert statuses[422] > 50 and statuses[200] > 5, statuses
