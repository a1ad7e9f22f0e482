"""What the engine asks of a recommender beside answers: to be warm, to have items that were added, to read sessions as
queries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxrec.errors import UserError, listed
from jaxrec.recommend import Recommender
from jaxrec.serve.sessions import Session
from jaxrec.tasks.query import Answer, Inputs, Query, answers
from jaxrec.tasks.sessions.recommend import STEPS

WARM = {1: (2, 17), 3: (2, 17), 6: (2, 17), 22: (2, 17), 193: (2, 3, 5, 9, 17, 33)}
"""Numbers of queries, with the lengths of their sessions, of which programs are compiled before any request."""


def session_query(session: Session, at: Any, reads: Sequence[str]) -> Query:
    """All of a session as a query."""
    given: dict[str, Any] = {"at": at} if "at" in reads else {}
    if session.user is not None or session.profile:
        given |= {"user": session.user, "profile": session.profile}
    if "events" in reads:
        events = [{**click.get("attributes", {}), **click} for click in session.clicks]
        return Query.parse(given | {"events": [{n: v for n, v in one.items() if n != "attributes"} for one in events]})
    if "items" not in reads:
        raise UserError(f"sessions: this run reads no items, but {listed(reads)}; ask /recommend")
    for click in session.clicks:
        if strange := click.keys() - {"item", "time"}:
            raise UserError(f"{min(strange)}: this run reads of a session's events item and time; leave it out, or "
                            "DELETE the session if it was there before")  # fmt: skip
        if "item" not in click:
            raise UserError("item: is missing; give the id of what was clicked")
    given |= {"items": [click["item"] for click in session.clicks]}
    if "times" in reads and any("time" in click for click in session.clicks):
        given["times"] = [click.get("time") for click in session.clicks]
    return Query.parse(given)


def warmed(r: Recommender) -> Recommender:
    """A recommender whose programs for the usual shapes are compiled."""
    kind, first = r.kind, next(iter(r.kind.items.ids.values()), None)
    k = min(20, r.n_items)
    for n, lengths in WARM.items():
        for length in lengths:
            if "events" in r.reads:
                query = Query(events=[{"item": first, "event": kind.types[0]}] * length)
            else:
                query = Query(items=[first] * length if "items" in r.reads and "user" not in r.reads else ())
            r.recommend([query] * n, k=k)
        if getattr(kind, "follows", False):
            mask, _ = kind.items.allowed()
            states = kind.follow([None] * n, [[0] * (STEPS + 1)] * n)
            answers(kind, [Inputs(state, np.zeros(1, np.int64), []) for state in states], k, mask, [], True)
    if "similar" in r.can:
        r.similar(first, k)
    return r


def as_bytes(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, default=str).encode()
    except ValueError:  # an attribute is no number
        return json.dumps(json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)).encode()


def with_items(r: Recommender, rows: list[dict[str, Any]]) -> Recommender:
    """With items that were added before, except those that the run knows by now."""
    unknown = [row for row in rows if r.kind.items.ids.find(row.get(r.kind.id_field)) < 0]
    if unknown:
        r.add(unknown)
    return r


def cut(answer: Answer, k: int) -> Answer:
    return answer if len(answer.places) <= k else replace(answer, places=answer.places[:k], scores=answer.scores[:k])
