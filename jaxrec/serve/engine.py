"""What stands between requests and the device: one thread that owns the recommender and the sessions, answers what has
come in while it worked on the last batch, and changes to a newer run between two batches."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.cli.command import say
from jaxrec.errors import UserError, listed
from jaxrec.recommend import Recommender
from jaxrec.serve.sessions import CLICKS, Session, Sessions
from jaxrec.tasks.query import Answer, Inputs, Query, answer_json, answers
from jaxrec.tasks.vectors import BATCH, check_k, steps

WARM = {1: (2, 17), 3: (2, 17), 9: (2, 17), 33: (2, 17), 129: (2, 3, 5, 9, 17)}
"""Numbers of queries, with the lengths of their sessions, of which programs are compiled before any request."""


class Busy(Exception):
    """The queue is full, or a request has waited in it for longer than it may."""


STOP = object()  # ends the thread


@dataclass(frozen=True)
class Options:
    """How a recommendation is asked for; what is equal in all but k shares a batch."""

    exclude: tuple[Any, ...] = ()
    only: str | tuple[Any, ...] | None = None
    seen: bool = False
    rules: bool = True


@dataclass(eq=False)
class Job:
    """A request in the queue: queries, an event of a session, or a call of the recommender."""

    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    size: int = 1  # queries
    queries: Sequence[Query] = ()
    several: bool = False
    session: str | None = None
    event: dict[str, Any] = field(default_factory=dict)
    k: int | None = None
    options: Options = Options()
    call: Callable[[], Any] | None = None
    due: float = 0.0

    def reply(self, result: Any) -> None:
        """Called from the engine's thread."""
        self.loop.call_soon_threadsafe(self.settle, result)

    def settle(self, result: Any) -> None:
        """Called from the event loop."""
        if self.done.done():  # whoever asked has gone
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


@dataclass(eq=False)
class Asked:
    """What a kind of run has read of a job; of a session that is followed, also its new ``clicks``."""

    job: Job
    k: int
    inputs: list[Inputs]
    session: Session | None = None
    clicks: list[int] = field(default_factory=list)


class Engine:
    """Answers jobs with a recommender that only its thread uses.

    Args:
        run: the run directory.
        sessions: those that are followed.
        most: queries that may wait or be worked on; with more of them ``Busy``.
        deadline: seconds that a job may wait.
        wait: seconds that the thread waits for more, once something is there.
        observe: told the number of queries of each batch, and the seconds it took.
    """

    def __init__(self, run: Path, sessions: Sessions, most: int = 256, deadline: float = 1.0, wait: float = 0.001,
                 observe: Callable[[int, float], None] = lambda n, seconds: None) -> None:  # fmt: skip
        self.run, self.sessions, self.most, self._deadline, self._wait = run, sessions, most, deadline, wait
        self.observe, self._jobs, self._pending, self._counted = observe, queue.SimpleQueue[Any](), 0, threading.Lock()
        self._reloading, self._added = threading.Lock(), list[dict[str, Any]]()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self.version, self.loaded, self.error = 0, time.time(), ""
        self.recommender = warmed(Recommender.load(run))
        self._thread.start()

    # ---- from the event loop -----------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Queries that wait, or are worked on."""
        return self._pending

    async def ask(self, queries: Sequence[Query], several: bool, k: int | None, options: Options) -> bytes:
        """The answers to queries as JSON."""
        size = max(1, len(queries))
        body: bytes = await self._submit(size=size, queries=queries, several=several, k=k, options=options)
        return body

    async def follow(self, session: str, event: dict[str, Any], k: int | None, options: Options) -> bytes:
        """What comes next in a session after one more event, which may be empty."""
        body: bytes = await self._submit(session=session, event=event, k=k, options=options)
        return body

    async def call(self, work: Callable[[], Any]) -> Any:
        """What a function of the recommender or the sessions returns, from the engine's thread."""
        return await self._submit(call=work)

    async def _submit(self, **what: Any) -> Any:
        size = what.get("size", 1)
        with self._counted:
            if self._pending and self._pending + size > self.most:
                raise Busy
            self._pending += size
        loop = asyncio.get_running_loop()
        job = Job(loop.create_future(), loop, due=time.monotonic() + self._deadline, **what)
        self._jobs.put(job)
        return await job.done

    def similar(self, item: Any, k: int | None) -> dict[str, Any]:
        """What is most similar to an item; for ``call``, as are the following."""
        return self._row(self.recommender.similar(item, k))

    def add(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """New items, which are added again to every later version of the run."""
        added = self.recommender.add(rows)
        self._added += rows
        return {"added": list(added), "notes": list(added.notes)}

    def stop(self) -> None:
        """Answer what is there, and end the thread."""
        self._jobs.put(STOP)
        self._thread.join()

    # ---- reloading ---------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Load the run anew and change to it between two batches; meanwhile, and where it cannot be loaded, the old one
        answers. Called from any other thread; ``UserError`` where another reload is under way."""
        if not self._reloading.acquire(blocking=False):
            raise UserError("reload: another one is under way; wait for it")
        try:
            rows = list(self._added)
            fresh = Recommender.load(self.run)
            warmed(_with_items(fresh, rows))
            over = threading.Event()
            self._jobs.put((fresh, len(rows), over))
            over.wait()
            self.error = ""
        except Exception as error:
            self.error = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            say("warning", f"{self.run}: not reloaded, the version of before goes on: {self.error}")
            raise
        finally:
            self._reloading.release()

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        held = None  # what ended the gathering of the last batch
        while (job := held or self._jobs.get()) is not STOP:
            held = None
            if isinstance(job, Job):
                batch, held = self._gathered(job)
                started, size = time.monotonic(), sum(one.size for one in batch)
                try:
                    self._answer(batch)
                except Exception as error:  # of a loop that has ended; this thread must not
                    say("warning", f"a batch could not be answered: {type(error).__name__}: {error}")
                self.observe(size, time.monotonic() - started)
                with self._counted:
                    self._pending -= size
            else:
                self._change(*job)

    def _gathered(self, job: Job) -> tuple[list[Job], Any]:
        """A job with those that come soon after it; and what came instead of a job, if anything did."""
        batch, size, until = [job], job.size, time.monotonic() + self._wait
        while size < BATCH:
            try:
                following = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if not isinstance(following, Job):
                return batch, following
            batch.append(following)
            size += following.size
        return batch, None

    def _change(self, fresh: Recommender, known: int, over: threading.Event) -> None:
        _with_items(fresh, self._added[known:])  # of which the reload did not know
        self.recommender, self.version, self.loaded = fresh, self.version + 1, time.time()
        over.set()

    def _answer(self, batch: list[Job]) -> None:
        """Recommendations in groups that are asked for alike; whatever comes after them in the same session, and other
        calls, when those before have been answered."""
        now, groups, busy = time.monotonic(), dict[Any, list[Asked]](), set[str | None]()
        for job in batch:
            if now > job.due:
                job.reply(Busy())
                continue
            if job.call or (job.session is not None and job.session in busy):
                self._flush(groups)
                busy = set()
            try:
                if job.call:
                    job.reply(job.call())
                    continue
                asked = self._asked(job)
            except Exception as error:
                job.reply(error)
                continue
            busy.add(job.session)
            groups.setdefault((asked.session is None, steps(asked.k, 32, 8), job.options), []).append(asked)
        self._flush(groups)

    def _flush(self, groups: dict[Any, list[Asked]]) -> None:
        for group in groups.values():
            self._answer_group(group)
        groups.clear()

    def _answer_group(self, group: list[Asked]) -> None:
        try:
            replies = self._replies(group)
        except Exception as error:
            if len(group) == 1:
                if (session := group[0].session) is not None:
                    session.version = -1  # its state is worked out anew
                return group[0].job.reply(error)
            for one in group:  # which one is it?
                self._answer_group([one])
            return None
        # Waking a loop up is a system call: one for all of them.
        for loop in {one.job.loop for one in group}:
            pairs = [(one, reply) for one, reply in zip(group, replies, strict=True) if one.job.loop is loop]
            loop.call_soon_threadsafe(_settle_all, pairs)

    def _asked(self, job: Job) -> Asked:
        """What the kind of run reads of a job; ``UserError`` where that is not possible."""
        r, kind = self.recommender, self.recommender.kind
        k = min(check_k(job.k, None if "user" in r.reads else r.n_items), r.n_items)
        if job.session is None:
            return Asked(job, k, kind.read([r.query(query) for query in job.queries], job.options.seen))
        session = self.sessions.touch(job.session)
        try:
            return self._event(job, k, session)
        except Exception:
            session.version = -1  # its places and state are worked out anew
            if not session.clicks:
                self.sessions.end(job.session)
            raise

    def _event(self, job: Job, k: int, session: Session) -> Asked:
        r = self.recommender
        new = {name: value for name, value in job.event.items() if value is not None}
        now = Session([*session.clicks], new.pop("user", session.user), new.pop("profile", session.profile))
        at = new.pop("at", None)
        if new:
            now.clicks = [*session.clicks, new][-CLICKS:]
        if not getattr(r.kind, "follows", False):
            inputs = r.kind.read([r.query(session_query(now, at, r.reads))], job.options.seen)
            session.clicks, session.user, session.profile = now.clicks, now.user, now.profile
            return Asked(job, k, inputs)
        fresh = now.clicks if session.version != self.version else now.clicks[-1:] if new else []
        (one,) = r.kind.read([r.query(session_query(Session(fresh, now.user, now.profile), at, r.reads))], True)
        if session.version != self.version:
            session.version, session.places, session.state = self.version, [], None
        session.clicks = now.clicks
        places = one.what.tolist()
        session.places = [*session.places, *places][-CLICKS:]
        return Asked(job, k, [one], session, places)

    def _replies(self, group: list[Asked]) -> list[bytes]:
        r, options = self.recommender, group[0].job.options
        mask, notes = r.kind.items.allowed(options.only, options.exclude)
        if group[0].session is not None:
            self._follow(group)
        inputs = [one for asked in group for one in asked.inputs]
        most = max(one.k for one in group)
        found = iter(answers(r.kind, inputs, most, mask, notes, options.rules) if inputs else ())
        replies = []
        for asked in group:
            rows = [self._row(_cut(next(found), asked.k)) for _ in asked.inputs]
            replies.append(as_bytes({"answers": rows} if asked.job.several else rows[0]))
        return replies

    def _follow(self, group: list[Asked]) -> None:
        """Take the sessions of a group on by their new clicks, all in one call."""
        sessions = [asked.session for asked in group if asked.session is not None]
        states = self.recommender.kind.follow([one.state for one in sessions], [asked.clicks for asked in group])
        for asked, session, state in zip(group, sessions, states, strict=True):
            gone = np.array([] if asked.job.options.seen else session.places, np.int64)
            asked.inputs = [asked.inputs[0]._replace(what=state, gone=gone, known=bool(session.places))]
            session.state, asked.clicks = state, []

    def _row(self, answer: Answer) -> dict[str, Any]:
        r = self.recommender
        score = getattr(r.kind, "score_name", "score")
        return answer_json(answer, score, "rules" in r.can, "user" not in r.reads) | {"notes": answer.notes}


def _settle_all(pairs: list[tuple[Asked, bytes]]) -> None:
    for asked, reply in pairs:
        asked.job.settle(reply)


def session_query(session: Session, at: Any, reads: Sequence[str]) -> Query:
    """All of a session as a query."""
    given: dict[str, Any] = {"at": at} if "at" in reads else {}
    if "events" in reads:
        events = [{**click.get("attributes", {}), **click} for click in session.clicks]
        return Query.parse(given | {"events": [{n: v for n, v in one.items() if n != "attributes"} for one in events]})
    if "items" not in reads:
        raise UserError(f"sessions: this run reads no items, but {listed(reads)}; ask /recommend")
    for click in session.clicks:
        if strange := click.keys() - {"item", "time"}:
            raise UserError(f"{min(strange)}: this run reads of a session's events item and time; leave it out")
        if "item" not in click:
            raise UserError("item: is missing; give the id of what was clicked")
    given |= {"items": [click["item"] for click in session.clicks]}
    if "times" in reads and any("time" in click for click in session.clicks):
        given["times"] = [click.get("time") for click in session.clicks]
    return Query.parse(given | {"user": session.user, "profile": session.profile})


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
            states = kind.follow([None] * n, [[0]] * n)
            answers(kind, [Inputs(state, np.zeros(1, np.int64), []) for state in states], k, mask, [], True)
    if "similar" in r.can:
        r.similar(first, k)
    return r


def as_bytes(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, default=str).encode()
    except ValueError:  # an attribute is no number
        return json.dumps(json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)).encode()


def _with_items(r: Recommender, rows: list[dict[str, Any]]) -> Recommender:
    """With items that were added before, except those that the run knows by now."""
    try:
        if rows:
            r.add(rows)
    except UserError:
        for row in rows if len(rows) > 1 else []:
            _with_items(r, [row])
    return r


def _cut(answer: Answer, k: int) -> Answer:
    return answer if len(answer.places) <= k else replace(answer, places=answer.places[:k], scores=answer.scores[:k])
