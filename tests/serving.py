"""What the tests of the server share: a client without a socket, and how answers are compared."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np

from jaxrec.serve.app import make_app
from jaxrec.serve.engine import Engine

Request = tuple[str, str, Any]


class Client:
    """Asks an application that no socket is between; many requests at once where they are given together."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.engine, self.app = engine, make_app(engine, **options)

    def all(self, *requests: Request, **headers: str) -> list[Any]:
        async def ask() -> list[Any]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
                return await asyncio.gather(*(self._one(client, *request) for request in requests))

        return asyncio.run(ask())

    async def _one(self, client: Any, method: str, path: str, body: Any) -> Any:
        if isinstance(body, bytes):
            return await client.request(method, path, content=body, headers={"content-type": "application/json"})
        return await client.request(method, path, **{} if body is None else {"json": body})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.all(("POST", path, body), **headers)[0]


def same(body: Any, answer: Any) -> None:
    """Ids in the same order, but for those whose scores the size of a batch may have put the other way around."""
    score = next(iter(body["recommendations"][0].keys() - {"item"} & {"score", "probability"}))
    found = {row["item"]: row[score] for row in body["recommendations"]}
    wanted = {item.id: item.score for item in answer.items}
    assert len(found) == len(wanted) and body["notes"] == answer.notes
    np.testing.assert_allclose([*found.values()], [*wanted.values()], rtol=1e-4, atol=1e-5)
    for (one, value), other in zip(found.items(), wanted, strict=True):
        assert one == other or np.isclose(value, wanted.get(one, value), rtol=1e-4, atol=1e-5), (one, other)
