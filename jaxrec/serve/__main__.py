"""python -m jaxrec.serve: recommendations of a run over HTTP."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, ranged, say, tell
from jaxrec.errors import UserError
from jaxrec.run import check_out
from jaxrec.serve.app import in_thread, log_to, make_app
from jaxrec.serve.engine import Engine
from jaxrec.serve.sessions import Sessions, write_snapshot

TOKEN = "JAXREC_TOKEN"  # the environment variable
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HELP = """\
Without --host only this machine can ask. Whoever may ask need a token where the environment variable of --token-env
holds one: curl -H "Authorization: Bearer $JAXREC_TOKEN" …

  python -m jaxrec.serve --run checkpoints/gru4rec --port 8000
  curl -H 'Content-Type: application/json' -d '{"query": {"items": [81766, 31331]}, "k": 20}' localhost:8000/recommend
"""


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.serve``."""
    options = _parser().parse_args(argv)
    if options.snapshot is not None:
        check_out(options.snapshot)
    if options.access_log not in (None, "-"):
        check_out(Path(options.access_log))
    runtime.start()
    with _socket(options.host, options.port) as listening:
        _serve(listening, options)


def _serve(listening: socket.socket, options: Any) -> None:
    """Serve until a signal comes."""
    token = os.environ.get(options.token_env or TOKEN, "")
    if options.token_env is not None and not token:
        raise UserError(f"--token-env {options.token_env}: no such environment variable, or it is empty; set it, or "
                        "leave the option out to serve without a token")  # fmt: skip
    if not token and options.host not in LOOPBACK:
        say("warning", f"--host {options.host}: whoever reaches it can ask, as {TOKEN} holds no token")
    seen = fingerprint(options.run)
    sessions = Sessions(options.sessions, options.session_ttl)
    if options.snapshot is not None and options.snapshot.exists():
        sessions.restore(options.snapshot)
    engine = Engine(options.run, sessions, options.queue, options.deadline_ms / 1e3, options.wait_ms / 1e3)
    log = None if options.access_log is None else log_to(options.access_log)
    background = _background(engine, options, seen)
    app = make_app(engine, token, log, background)
    settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=20,
                              server_header=False)  # fmt: skip
    sys.setswitchinterval(0.0005)  # the event loop need not wait 5 ms for the engine's thread
    gc.collect()
    gc.freeze()  # nothing of what is loaded goes: the collector need not look through it again and again
    try:
        listening.listen(2048)  # from here on requests wait to be answered, and are not refused
    except OSError as error:  # another server has taken the port since
        raise _no_port(options.host, options.port, error) from None
    name = f"[{options.host}]" if ":" in options.host else options.host
    tell(f"http://{name}:{listening.getsockname()[1]}: {options.run}, {engine.recommender.n_items:,} items; stop with "
         "Ctrl-C or SIGTERM")  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn ends, and sends it again
    with suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listening])
    engine.stop()
    if options.snapshot is not None:
        write_snapshot(options.snapshot, sessions.rows())
        tell(f"{options.snapshot}: {len(sessions):,} sessions")


def _socket(host: str, port: int) -> socket.socket:
    """A socket of that address, so that a port in use is known before anything is loaded."""
    listening = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, UnicodeError) as error:  # the latter of a name with a part of more than 63 letters
        if listening is not None:
            listening.close()
        raise _no_port(host, port, error) from None
    return listening


def _no_port(host: str, port: int, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"--port {port}: cannot listen at {host} ({reason}); choose another port, or another --host")


def _background(engine: Engine, options: Any, seen: tuple[Any, ...]) -> Callable[[], Awaitable[None]]:
    """Watches the run for a newer checkpoint, and writes snapshots of the sessions."""

    async def watch() -> None:
        known = seen
        while options.watch:
            await asyncio.sleep(options.watch)
            now = await asyncio.to_thread(fingerprint, engine.run)
            if now != known:
                with suppress(Exception):  # which has been said, and stands in /healthz; the next time again
                    await in_thread(engine.reload)
                    known = now

    async def save() -> None:
        while options.snapshot is not None:
            await asyncio.sleep(options.snapshot_every)
            try:
                rows = await engine.call(engine.sessions.rows, whenever=True)
                await asyncio.to_thread(write_snapshot, options.snapshot, rows)
            except Exception as error:
                say("warning", f"{options.snapshot}: not written ({error}); the next time again")

    async def both() -> None:
        await asyncio.gather(watch(), save())

    return both


def fingerprint(run: Path) -> tuple[Any, ...]:
    """What changes where a run is trained on, or another takes its place: its configuration, and the checkpoints that
    are served."""
    found = list[Any]()
    with suppress(OSError):
        state = run / "state" / "best" if (run / "state" / "best").is_dir() else run / "state" / "latest"
        for file in (run / "config.yaml", *sorted(one for one in state.iterdir() if one.name.isdigit())):
            found.append((file.name, file.stat().st_mtime_ns, file.stat().st_ino))
    return tuple(found)


def _parser() -> Parser:
    parser = Parser(prog="python -m jaxrec.serve", epilog=HELP, description=(
        "Serve recommendations of a run over HTTP: single queries and batches, sessions that are followed click by "
        "click, similar items, new items. A page to try it stands at /, the documentation at /docs."))  # fmt: skip
    add = parser.add_argument
    add("--run", required=True, type=Path, metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    add("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1; 0.0.0.0: all of this machine)")
    add("--port", type=ranged(int, 0, 65535), default=8000, help="default: 8000; 0: any that is free")
    add("--token-env", metavar="NAME", help="environment variable with the token that requests "
        f"must bring (default: {TOKEN}; not set: none)")  # fmt: skip
    add("--watch", type=ranged(float, 0, 86_400), default=0, metavar="SECONDS", help="look so often for a newer "
        "checkpoint, and change to it (default: only at POST /reload)")  # fmt: skip
    add("--access-log", metavar="FILE", help="write a line of JSON for each request; - for stdout")
    queue = parser.add_argument_group("the queue before the device").add_argument
    queue("--queue", type=ranged(int, 1), default=128, metavar="N", help="queries that may wait or be worked on; more "
          "are refused with 429 (default: 128)")  # fmt: skip
    queue("--deadline-ms", type=ranged(float, 1, 600_000), default=1000, help="a request that has waited for longer is "
          "refused with 429 (default: 1000)")  # fmt: skip
    queue("--wait-ms", type=ranged(float, 0, 1000), default=0, help="how long a request waits for others to be "
          "answered with (default: 0; what comes while the device works is answered together anyway)")  # fmt: skip
    follow = parser.add_argument_group("sessions").add_argument
    follow("--sessions", type=ranged(int, 1), default=100_000, metavar="N", help="so many at most; the least recently "
           "used goes first (default: 100000)")  # fmt: skip
    follow("--session-ttl", type=ranged(float, 0.001, 1e9), default=1800, metavar="SECONDS", help="one without a click "
           "for so long goes (default: 1800)")  # fmt: skip
    follow("--snapshot", type=Path, metavar="FILE", help="sessions are kept there, and read at the start")
    follow("--snapshot-every", type=ranged(float, 0.1, 86_400), default=60, metavar="SECONDS", help="beside the end of "
           "the server (default: 60)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
