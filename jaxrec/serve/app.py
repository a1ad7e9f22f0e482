"""The server's HTTP: routes over an ``Engine``, errors as JSON that name the field, refusal when it is too busy."""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException as StarletteException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

import jaxrec
from jaxrec.errors import UserError
from jaxrec.serve import bodies
from jaxrec.serve.asking import as_bytes
from jaxrec.serve.engine import Busy, Engine, Options
from jaxrec.tasks.query import Query
from jaxrec.tasks.vectors import DEFAULT_K

OPEN = ("/", "/docs", "/openapi.json", "/healthz")  # without a token, as they tell little: the model, numbers, errors
QUEUED = ("/recommend", "/similar", "/items", "/sessions/")  # what begins so waits for the device
SessionId = Annotated[str, Path(min_length=1, max_length=200, description="any text")]
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": bodies.ErrorBody, "description": text} for status, text in {
        400: "the body is no JSON", 401: "the token is missing or wrong", 408: "the body did not come in time",
        413: "the body is too large", 415: "the body is of another content type", 422: "a field is wrong",
        429: "too busy; Retry-After says when to ask again",
    }.items()
}  # fmt: skip


class StrictRoute(APIRoute):
    """Reads bodies by ``bodies.StrictRequest``, in bounded time."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request = bodies.StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                try:
                    await asyncio.wait_for(request.body(), bodies.SECONDS)
                except ClientDisconnect:
                    raise HTTPException(400, "the client has gone") from None
                except TimeoutError:
                    raise HTTPException(408, f"the body did not come within {bodies.SECONDS:g} seconds") from None
            response: Response = await handler(request)
            return response

        return handle


class Measures:
    """What /metrics tells."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("jaxrec_requests", "Requests by route and status", ["route", "status"],
                                registry=self.registry)  # fmt: skip
        self.seconds = Histogram("jaxrec_request_seconds", "Time to answer", ["route"], registry=self.registry,
                                 buckets=(.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5))  # fmt: skip
        self.batch = Histogram("jaxrec_batch_queries", "Queries answered in one go", registry=self.registry,
                               buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256))  # fmt: skip
        self.work = Counter("jaxrec_work_seconds", "Time in which batches were worked on", registry=self.registry)
        for name, text, value in (
            ("pending_queries", "Queries that wait or are worked on", lambda: engine.pending),
            ("sessions", "Sessions that are followed", lambda: len(engine.sessions)),
            ("sessions_evicted", "Sessions that went, as too old or too many", lambda: engine.sessions.evicted),
            ("run_version", "Times that the run was changed for a newer one", lambda: engine.version),
            ("items", "Items that can be recommended", lambda: engine.recommender.n_items),
        ):
            Gauge(f"jaxrec_{name}", text, registry=self.registry).set_function(value)

    def batched(self, queries: int, seconds: float) -> None:
        self.batch.observe(queries)
        self.work.inc(seconds)


def make_app(engine: Engine, token: str = "", log: Callable[[str], object] | None = None,
             background: Callable[[], Awaitable[None]] | None = None) -> ASGIApp:  # fmt: skip
    """The application over an engine.

    Args:
        token: what ``Authorization: Bearer …`` has to hold; empty: anybody may ask.
        log: gets a line of JSON for each request.
        background: runs while the server does, and is cancelled at its end.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        task = None if background is None else asyncio.ensure_future(background())
        yield
        if task is not None:
            task.cancel()

    app = FastAPI(title="jaxrec", version=jaxrec.__version__, lifespan=lifespan, redoc_url=None,
                  description=f"Recommendations of a run of {engine.recommender.run.config.model.name}.")  # fmt: skip
    measures = Measures(engine)
    engine.observe = measures.batched
    app.include_router(_routes(engine))
    app.include_router(_pages(engine, measures))
    for kind, answer in ((StarletteException, _http_error), (RequestValidationError, _field_error),
                         (UserError, _user_error), (Busy, _busy), (Exception, _fault)):  # fmt: skip
        app.add_exception_handler(kind, answer)
    return Door(app, engine, token, measures, log)


class Door:
    """What every request passes first: the token, and whether there is room; also measures and logs it, and answers
    500 without a word of the traceback, which goes to stderr."""

    def __init__(self, app: ASGIApp, engine: Engine, token: str, measures: Measures, log: Any) -> None:
        self._app, self._engine, self._measures, self._log = app, engine, measures, log
        self._token = f"Bearer {token}".encode() if token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status, path = time.perf_counter(), 0, scope["path"]

        async def noting(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if (answer := self._refused(scope, path)) is not None:
                await answer(scope, receive, noting)
            else:
                await self._app(scope, receive, noting)
        except Exception as error:
            traceback.print_exception(error)  # it has been answered
        finally:
            route = getattr(scope.get("route"), "path", "none")
            seconds = time.perf_counter() - started
            self._measures.requests.labels(route, str(status)).inc()
            self._measures.seconds.labels(route).observe(seconds)
            if self._log is not None:
                row = {"time": round(time.time(), 3), "method": scope["method"], "path": path, "status": status,
                       "ms": round(1e3 * seconds, 2), "client": (scope.get("client") or ("",))[0]}  # fmt: skip
                self._log(json.dumps(row))

    def _refused(self, scope: Scope, path: str) -> Response | None:
        if self._token and path not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._token):
                return _error(401, "authorization: the token is missing or wrong; send Authorization: Bearer TOKEN",
                              headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
        if path == "/reload":
            headers = dict(scope["headers"])
            origin = headers.get(b"origin", b"").rpartition(b"/")[2]
            if origin and origin != headers.get(b"host"):
                return _error(403, "origin: a page of another site; send the request from elsewhere")
        if path.startswith(QUEUED) and self._engine.pending >= self._engine.most:
            return _too_busy()
        return None


# ---- routes ----------------------------------------------------------------------------------------------------------


def _routes(engine: Engine) -> APIRouter:
    """What is answered by the device."""
    router = APIRouter(route_class=StrictRoute, responses=ERRORS)

    @router.post("/recommend", response_model=bodies.AnswerBody | bodies.AnswersBody)
    async def recommend(ask: bodies.Ask) -> Response:
        """The best items for one query, or for each of several."""
        if (ask.query is None) == (ask.queries is None):
            raise UserError("query: give either query, or queries, a list of them")
        several = ask.queries is not None
        given = ask.queries if ask.queries is not None else [ask.query]
        if len(given) * (ask.k or DEFAULT_K) > bodies.ANSWERS:
            raise UserError(f"queries: {len(given)} of them for k = {ask.k} are more than {bodies.ANSWERS:,} items; "
                            "send fewer in one request")  # fmt: skip
        queries = [Query.parse(one.model_dump(exclude_unset=True)) for one in given if one is not None]
        return _ready(await engine.ask(queries, several, ask.k, _options(ask)))

    @router.post("/similar", response_model=bodies.AnswerBody)
    async def similar(ask: bodies.Similar) -> Response:
        """The items most like one."""
        return _ready(as_bytes(await engine.call(partial(engine.similar, ask.item, ask.k))))

    @router.post("/items", response_model=bodies.AddedBody)
    async def items(new: bodies.NewItems) -> Response:
        """Let items be recommended that no training has seen, from their fields."""
        return _ready(as_bytes(await engine.call(partial(engine.add, new.items))))

    @router.post("/sessions/{session}/events", response_model=bodies.AnswerBody)
    async def event(session: SessionId, event: bodies.Event) -> Response:
        """Add an event to a session, which begins with its first one, and recommend what comes next."""
        given = event.model_dump(exclude_unset=True, exclude=set(bodies.How.model_fields))
        if (size := len(as_bytes(given))) > bodies.EVENT:
            raise UserError(f"event: has {size:,} bytes; at most {bodies.EVENT:,} are kept of one, so send less")
        return _ready(await engine.follow(session, given, event.k, _options(event)))

    @router.delete("/sessions/{session}", status_code=204, responses={404: {"model": bodies.ErrorBody}})
    async def end(session: SessionId) -> Response:
        """Forget a session."""
        if not await engine.call(partial(engine.sessions.end, session)):
            raise HTTPException(404, "session: there is none of that id; it may have expired")
        return Response(status_code=204)

    return router


def _pages(engine: Engine, measures: Measures) -> APIRouter:
    """What is answered at once, and reloading."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(resources.files("jaxrec.serve").joinpath("page.html").read_text(encoding="utf-8"))

    @router.get("/healthz", responses={503: {"model": bodies.ErrorBody}})
    async def health() -> dict[str, Any]:
        """What is served; ``reload_error`` says why the last reload failed, if it did."""
        r = engine.recommender
        if not engine.alive:
            raise HTTPException(503, "the engine has ended; start the server again")
        return {
            "status": "ok", "run": engine.run.name, "model": r.run.config.model.name, "items": r.n_items,
            "reads": list(r.reads), "can": sorted(r.can), "version": engine.version, "loaded": engine.loaded,
            "sessions": len(engine.sessions), "pending": engine.pending, "reload_error": engine.error,
        }  # fmt: skip

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST)

    failed = {"model": bodies.ErrorBody, "description": "not reloaded; the old one goes on"}

    @router.post("/reload", responses={409: failed, 401: ERRORS[401], 403: {"model": bodies.ErrorBody}})
    async def reload() -> dict[str, int]:
        """Load the run anew, and change to it when it is ready; no request waits for that."""
        try:
            await in_thread(engine.reload)
        except Exception as error:
            raise HTTPException(409, str(error) if isinstance(error, UserError) else engine.error) from None
        return {"version": engine.version}

    return router


def _options(how: bodies.How) -> Options:
    only = tuple(how.only) if isinstance(how.only, list) else how.only
    return Options(tuple(how.exclude), only, how.seen, how.rules)


# ---- replies ---------------------------------------------------------------------------------------------------------


def _ready(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _error(status: int, message: str, field: str = "", headers: Any = None) -> Response:
    body = as_bytes({"error": message, "field": field})
    return Response(body, status, media_type="application/json", headers=headers)


def _too_busy() -> Response:
    return _error(429, "too busy; ask again in a second", headers={"Retry-After": "1"})


async def _busy(request: Request, error: Exception) -> Response:
    return _too_busy()


async def _fault(request: Request, error: Exception) -> Response:
    return _error(500, "internal error; the server's log says more")


async def _http_error(request: Request, error: Any) -> Response:
    return _error(error.status_code, str(error.detail), headers=error.headers)


async def _user_error(request: Request, error: Exception) -> Response:
    field = str(error).partition(":")[0]
    return _error(422, str(error), field if field.replace(".", "").isidentifier() else "")


async def _field_error(request: Request, error: Any) -> Response:
    field, problem = bodies.field_and_problem(error)
    return _error(422, f"{field}: {problem}" if field else problem, field)


async def in_thread(work: Callable[[], object]) -> None:
    """Do something long without holding up the end of the process, which waits for asyncio's own threads."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def go() -> None:
        error = None
        try:
            work()
        except Exception as caught:
            error = caught
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=go, name="long", daemon=True).start()
    await done


def log_to(file: str) -> Callable[[str], object]:
    """Writes lines to a file, or to stdout, which is ``-``."""
    stream = sys.stdout if file == "-" else open(file, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    return lambda line: print(line, file=stream, flush=True)
