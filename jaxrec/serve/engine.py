"""What stands between requests and the device: one thread that owns the recommender and the sessions, answers what has
come in while it worked on the last batch, and changes to a newer run between two batches."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.cli.command import say
from jaxrec.errors import UserError
from jaxrec.recommend import Recommender
from jaxrec.serve.asking import as_bytes, cut, session_query, warmed, with_items
from jaxrec.serve.sessions import CLICKS, Session, Sessions
from jaxrec.tasks.query import Answer, Inputs, Query, answer_json, answers
from jaxrec.tasks.vectors import BATCH, check_k, steps

ITEMS = 100_000  # that may be added
STOP = object()  # ends the thread


class Busy(Exception):
    """The queue is full, or a request has waited in it for longer than it may."""

    def __str__(self) -> str:
        return "too busy"


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
    counted: bool = True  # among those that wait

    def settle(self, result: Any) -> None:
        """Called from the event loop."""
        if self.done.done():  # whoever asked has gone
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


@dataclass(eq=False)
class Change:
    """A newer version of the run, which knows the first so many of the added items."""

    fresh: Recommender
    known: int
    over: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


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
        most: queries that may wait, the batch that is worked on among them; with more of them ``Busy``.
        deadline: seconds that a job may wait.
        wait: seconds that the thread waits for more, once something is there.

    Attributes:
        observe: told the number of queries of each batch, and the seconds it took.
    """

    def __init__(
        self, run: Path, sessions: Sessions, most: int = 128, deadline: float = 1.0, wait: float = 0.0
    ) -> None:
        self.run, self.sessions, self.most, self._deadline, self._wait = run, sessions, most, deadline, wait
        self.observe: Callable[[int, float], None] = lambda n, seconds: None
        self._jobs, self._pending, self._counted = queue.SimpleQueue[Any](), 0, threading.Lock()
        self._reloading, self._added = threading.Lock(), list[dict[str, Any]]()
        self._allowed: dict[Options, Any] = {}  # of the batch that is worked on
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self.version, self.loaded, self.error = 0, time.time(), ""
        self.recommender = warmed(Recommender.load(run))
        self._thread.start()

    # ---- from the event loop -----------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Queries that wait, or are worked on."""
        return self._pending

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    async def ask(self, queries: Sequence[Query], several: bool, k: int | None, options: Options) -> bytes:
        """The answers to queries as JSON."""
        size = max(1, len(queries))
        body: bytes = await self._submit(size=size, queries=queries, several=several, k=k, options=options)
        return body

    async def follow(self, session: str, event: dict[str, Any], k: int | None, options: Options) -> bytes:
        """What comes next in a session after one more event, which may be empty."""
        body: bytes = await self._submit(session=session, event=event, k=k, options=options)
        return body

    async def call(self, work: Callable[[], Any], whenever: bool = False) -> Any:
        """What a function of the recommender or the sessions returns, from the engine's thread; ``whenever``: however
        many wait, and for however long."""
        return await self._submit(whenever, call=work)

    async def _submit(self, whenever: bool = False, **what: Any) -> Any:
        size = what.get("size", 1)
        with self._counted:
            if self._pending and self._pending + size > self.most and not whenever:
                raise Busy
            self._pending += size
        loop = asyncio.get_running_loop()
        due = float("inf") if whenever else time.monotonic() + self._deadline
        job = Job(loop.create_future(), loop, due=due, **what)
        self._jobs.put(job)
        return await job.done

    def similar(self, item: Any, k: int | None) -> dict[str, Any]:
        """What is most similar to an item; for ``call``, as are the following."""
        return self._row(self.recommender.similar(item, k))

    def add(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """New items, which are added again to every later version of the run."""
        if len(self._added) + len(rows) > ITEMS:
            raise UserError(f"items: {len(self._added):,} have been added, and {ITEMS:,} are the most; train anew")
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
            fresh = with_items(Recommender.load(self.run), rows)
            # Where the programs of the version before serve this one, warming would only take time from its requests.
            change = Change(fresh if getattr(fresh.kind, "compiled", False) else warmed(fresh), len(rows))
            self._jobs.put(change)
            while not change.over.wait(1.0):
                if not self.alive:
                    raise UserError("reload: the server is ending")
            if change.error is not None:
                raise change.error
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
                started = time.monotonic()
                try:
                    self._answer(batch)
                except Exception as error:  # this thread must not end
                    say("warning", f"a batch could not be answered: {type(error).__name__}: {error}")
                    self._settle([(one, error) for one in batch])
                self.observe(sum(one.size for one in batch), time.monotonic() - started)
            else:
                self._change(job)

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

    def _change(self, change: Change) -> None:
        try:
            with_items(change.fresh, self._added[change.known :])  # of which the reload did not know
            self.recommender, self.version, self.loaded = change.fresh, self.version + 1, time.time()
        except Exception as error:
            change.error = error
        finally:
            change.over.set()

    def _settle(self, results: Sequence[tuple[Job, Any]]) -> None:
        """Count jobs off and hand their results, or exceptions, to those who wait."""
        with self._counted:
            self._pending -= sum(job.size for job, _ in results if job.counted)
        for job, _ in results:
            job.counted = False
        # Waking a loop up is a system call: one for all of them.
        for loop in {job.loop for job, _ in results}:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(_settle_all, [pair for pair in results if pair[0].loop is loop])

    def _answer(self, batch: list[Job]) -> None:
        """Recommendations in groups that are asked for alike; whatever comes after them in the same session, and other
        calls, when those before have been answered."""
        now, groups, busy, self._allowed = time.monotonic(), dict[Any, list[Asked]](), set[str | None](), {}
        for job in batch:
            if now > job.due:
                self._settle([(job, Busy())])
                continue
            if job.call or (job.session is not None and job.session in busy):
                self._flush(groups)
                busy = set()
            try:
                if job.call:
                    self._settle([(job, job.call())])
                    self._allowed = {}  # there may be more items
                    continue
                asked = self._asked(job)
            except Exception as error:
                self._settle([(job, error)])
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
                return self._settle([(group[0].job, error)])
            for one in group:  # which one is it?
                self._answer_group([one])
            return None
        return self._settle([(one.job, reply) for one, reply in zip(group, replies, strict=True)])

    def _asked(self, job: Job) -> Asked:
        """What the kind of run reads of a job; ``UserError`` where that is not possible."""
        r, kind = self.recommender, self.recommender.kind
        k = min(check_k(job.k, None if "user" in r.reads else r.n_items), r.n_items)
        if job.options not in self._allowed:
            self._allowed[job.options] = kind.items.allowed(job.options.only, job.options.exclude)
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
        mask, notes = self._allowed[options]
        if group[0].session is not None:
            self._follow(group)
        inputs = [one for asked in group for one in asked.inputs]
        most = max(one.k for one in group)
        found = iter(answers(r.kind, inputs, most, mask, notes, options.rules) if inputs else ())
        replies = []
        for asked in group:
            rows = [self._row(cut(next(found), asked.k)) for _ in asked.inputs]
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


def _settle_all(results: list[tuple[Job, Any]]) -> None:
    for job, result in results:
        job.settle(result)
