"""What requests hold, within limits: bodies read strictly as JSON, and their types, which are also those of /docs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from starlette.types import Message

BODY = 2**20  # bytes of a request
LIST = 1_000  # members of any list
QUERIES = 256  # of a request
MOST_K = 1_000
ANSWERS = 20_000  # items in the answers to one request
EVENT = 4_096  # bytes of an event of a session, all of which is kept
TEXT = 10_000  # characters of a name or a filter
SECONDS = 10.0  # in which a body has to be here

Text = Annotated[StrictStr, Field(max_length=TEXT)]
Id = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)] | Annotated[StrictStr, Field(max_length=500)]
"""A raw id, as the run's data have it: a number or text."""
Value = StrictBool | StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)] | Text | None
Values = Annotated[list[Value], Field(max_length=LIST)]
Ids = Annotated[list[Id], Field(max_length=LIST)]
Fields = Annotated[dict[Text, Value | Values], Field(max_length=LIST)]
K = Annotated[StrictInt | None, Field(ge=1, le=MOST_K, description="how many items; none: 20, or all where fewer")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class QueryBody(Body):
    """What is known of a session, a user or a sequence; /healthz says which fields the run reads."""

    items: Ids = Field(default=[], description="raw ids in order of time: clicks, or purchases")
    events: Annotated[list[Fields], Field(max_length=LIST)] = Field(
        default=[], description="mappings with item, event, and of items that the run does not know name and attributes"
    )
    user: Id | None = Field(default=None, description="raw id of a user of the data")
    profile: Fields = Field(default={}, description="values of fields of the user")
    at: Id | None = Field(default=None, description="the moment: seconds since 1970, or ISO 8601")
    times: Annotated[list[Id | None], Field(max_length=LIST)] = Field(default=[], description="when each item was")


class How(Body):
    """What is asked for, whoever asks."""

    k: K = None
    exclude: Ids = Field(default=[], description="raw ids never to recommend")
    only: Ids | Text | None = Field(default=None, description="only these ids, or what a filter leaves: price <= 50")
    seen: StrictBool = Field(default=False, description="whether what the user has already may be recommended")
    rules: StrictBool = Field(default=True, description="whether the configuration's rules apply")


class Ask(How):
    query: QueryBody | None = Field(default=None, description="one query; or else queries")
    queries: Annotated[list[QueryBody], Field(max_length=QUERIES)] | None = None


class Event(How):
    """One click, purchase or event of a session; what of the user comes with it stays known until it is given anew."""

    item: Id | None = Field(default=None, description="raw id of what was clicked; none: only recommend")
    time: Id | None = Field(default=None, description="when it was")
    event: Text | None = Field(default=None, description="runs of events: its type")
    name: Text | None = Field(default=None, description="runs of events: the name of an item that the run may not know")
    attributes: Fields = Field(default={}, description="runs of events: further attributes of the item")
    user: Id | None = None
    profile: Fields | None = None
    at: Id | None = Field(default=None, description="the moment of the recommendation")


class Similar(Body):
    item: Id
    k: K = None


class NewItems(Body):
    items: Annotated[list[Fields], Field(min_length=1, max_length=LIST)]


class Recommended(BaseModel):
    """An item, its score, and its attributes."""

    model_config = ConfigDict(extra="allow")

    item: Any


class AnswerBody(BaseModel):
    recommendations: list[Recommended] = Field(description="best first")
    notes: list[str] = Field(description="unknown ids that were left out, values that were replaced")
    unknown: list[Any] = Field(default=[], description="ids of the query that the run does not know")
    popularity: bool = Field(default=False, description="whether nothing was known, so that the most popular are given")
    at: int | None = Field(default=None, description="ms since 1970, where items are live for a time")


class AnswersBody(BaseModel):
    answers: list[AnswerBody] = Field(description="an answer for each of queries")


class AddedBody(BaseModel):
    added: list[Any]
    notes: list[str]


class ErrorBody(BaseModel):
    error: str = Field(description="what was found, what is allowed, what to do")
    field: str = Field(default="", description="the field of the body, as query.items.3")


class StrictRequest(Request):
    """A request whose body is JSON, within limits of bytes and time, without NaN, infinite numbers or double keys."""

    def __init__(self, scope: Any, receive: Callable[[], Any]) -> None:
        headers = dict(scope["headers"])
        # What curl -d sends is read too. A page of another site can send it without asking, but not without its Origin.
        if headers.get(b"content-type") == b"application/x-www-form-urlencoded" and b"origin" not in headers:
            scope["headers"] = [*(headers | {b"content-type": b"application/json"}).items()]
        super().__init__(scope, _limited(receive))

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise HTTPException(415, f"content-type: found '{kind[:60]}'; send application/json")
            if not (body := await super().body()).strip():
                raise HTTPException(400, "the body is empty; send a JSON object")
            self._json = _parsed(body)
            if not isinstance(self._json, dict):
                raise HTTPException(400, 'the body is no JSON object; send one, as {"query": {"items": [1]}}')
        return self._body

    async def json(self) -> Any:
        await self.body()
        return self._json


def _limited(receive: Callable[[], Any]) -> Callable[[], Any]:
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message: Message = await receive()
        taken += len(message.get("body", b""))
        if taken > BODY:
            raise HTTPException(413, f"the body has more than {BODY:,} bytes; send less in one request")
        return message

    return limited


def _refused(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no number")


def _number(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refused(text)


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(values := dict(items)) < len(items):
        raise ValueError("a name stands twice in an object")
    return values


JSON = json.JSONDecoder(parse_constant=_refused, parse_float=_number, object_pairs_hook=_pairs)


def _parsed(body: bytes) -> Any:
    try:
        return JSON.decode(body.decode())
    except RecursionError:
        raise HTTPException(400, "the body is nested too deeply; a query has four levels") from None
    except ValueError as error:  # also a number of thousands of digits, and what is not UTF-8
        raise HTTPException(400, f"the body is not JSON that can be read ({str(error)[:200]})") from None


def field_and_problem(error: RequestValidationError) -> tuple[str, str]:
    """Where in a body the first problem is, as ``query.items.3``, and the problem in one line."""
    problem = error.errors()[0]
    # A part of a union's name is no part of the body, nor is the body itself.
    place = [str(part)[:100] for part in problem["loc"][1:]]
    place = [part for part in place if part.isidentifier() or part.isdecimal()]
    place = [part for part in place if part not in ("str", "int", "float", "bool", "QueryBody", "constrained")]
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return ".".join(place), message
