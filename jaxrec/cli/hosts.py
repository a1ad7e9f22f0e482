"""Several processes that train one run, a process for each host: how a command joins them, and how it ends when one of
them is gone. JAX's own runtime finds that out and kills the process with a screen of text; here it becomes one line."""

from __future__ import annotations

import argparse
import atexit
import ctypes
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxrec.cli.command import ranged
from jaxrec.cli.quiet import quiet
from jaxrec.errors import UserError, listed, one_line

HEARTBEAT = 30  # s without a sign of life, after which a process counts as gone
TERMINATED = "terminate called after throwing an instance of "  # how C++ tells of an error that nobody expects
FATAL = "Terminating process because the JAX distributed service"  # how XLA's text begins before it aborts
PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")  # through which gRPC would go to other hosts
GONE = re.compile(r"stopped sending heartbeats\):\s*((?:\d+[\s,]*)+)")


@dataclass
class Ranks:
    """How this process finds the others."""

    coordinator: str | None  # HOST:PORT of rank 0; None: the cluster says
    rank: int | None
    count: int | None
    timeout: int  # s to wait for all of them
    names: list[str] = field(default_factory=list)  # hosts by rank, once they are known

    def name(self, rank: int) -> str:
        """``rank 1 (node17)``."""
        return f"rank {rank} ({self.names[rank]})" if rank < len(self.names) else f"rank {rank}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options from which ``read_options`` makes ``Ranks``."""
    parser.add_argument("--distributed", metavar="WHERE", help="train with other processes, one for each host, each "
                        "started with this command: auto, where Slurm, Open MPI, a TPU pod or Kubernetes tells them of "
                        "each other; or HOST:PORT of rank 0, with --rank and --count")  # fmt: skip
    parser.add_argument("--rank", type=ranged(int, 0), help="of this process, from 0; rank 0 writes the run directory, "
                        "which all have to see, and prints")  # fmt: skip
    parser.add_argument("--count", type=ranged(int, 1), help="how many processes there are")
    parser.add_argument("--join-timeout", metavar="SECONDS", type=ranged(int, 1, 86_400), default=60,
                        help="how long processes wait for each other at the beginning (default: 60)")  # fmt: skip


def read_options(options: argparse.Namespace) -> Ranks | None:
    """The processes that a command is to join; None where it is the only one."""
    where, rank, count = options.distributed, options.rank, options.count
    if where is None:
        if rank is not None or count is not None:
            raise UserError("--rank and --count: of processes that --distributed HOST:PORT names the first of; add it")
        return None
    if where == "auto":
        if rank is not None or count is not None:
            raise UserError("--distributed auto: finds rank and count; leave --rank and --count out, or name HOST:PORT")
        return Ranks(None, None, None, options.join_timeout)
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--distributed {where}: expected auto, or HOST:PORT of rank 0, such as node1:5000")
    if rank is None or count is None or rank >= count:
        raise UserError(f"--distributed {where}: needs --rank and --count, the rank below the count; found "
                        f"{rank} and {count}")  # fmt: skip
    return Ranks(where, rank, count, options.join_timeout)


def agreed(error: Exception) -> Exception:
    """The error, as one that all processes know of, so that they end side by side."""
    error.__dict__["agreed"] = True
    return error


@contextmanager
def joined(ranks: Ranks | None) -> Iterator[None]:
    """Inside, this process is one of ``ranks``; all but the first are quiet but for errors. An error of this process
    alone leaves the others to find out: they would wait for it in vain, and it for them, if it said goodbye."""
    if ranks is None:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_libraries_aside(ranks))
        _initialize(ranks)
        if jax.process_index():
            stack.enter_context(quiet(progress=False))
        try:
            yield
        except BaseException as error:
            if isinstance(error, SystemExit) or hasattr(error, "agreed"):
                jax.distributed.shutdown()
                raise
            lost = _of_others(error)
            if lost:
                time.sleep(HEARTBEAT + 15)  # JAX finds out which of them it was, and `_libraries_aside` ends this one
            ours = lost or isinstance(error, (UserError, OSError))
            atexit.register(_end, 2 if ours else 130 if isinstance(error, KeyboardInterrupt) else 1)
            if not lost:
                raise
            reason = (str(error).splitlines() or [""])[0][:300]
            raise UserError(f"processes lost each other ({reason}); start all again with --resume") from None
        jax.distributed.shutdown()


def _initialize(ranks: Ranks) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    method = None if ranks.coordinator is None else "deactivate"
    try:
        jax.distributed.initialize(
            ranks.coordinator, ranks.count, ranks.rank, cluster_detection_method=method,
            initialization_timeout=ranks.timeout, heartbeat_timeout_seconds=HEARTBEAT,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:  # of what the cluster says, or a port that is taken
        if ranks.coordinator is None and "should be defined" in str(error):
            reason = "this is none of Slurm, Open MPI, a TPU pod and Kubernetes that JAX knows"
        else:
            reason = " ".join(str(error).split())[:300]
        raise UserError(f"--distributed {ranks.coordinator or 'auto'}: {reason}; name HOST:PORT of rank 0, --rank and "
                        "--count") from None  # fmt: skip


def _of_others(error: BaseException) -> bool:
    """Whether it is what a collective says whose other end is gone."""
    text = str(error)
    return "Gloo" in text or (isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in text)


def _end(code: int) -> None:
    """End without waiting for others, as JAX would at the end of a process."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


@contextmanager
def _libraries_aside(ranks: Ranks) -> Iterator[None]:
    """Inside, what libraries in C++ print is kept back, and Python's streams go where they went. XLA tells of other
    processes' deaths in a text of its own before it calls abort(), which is all that can be caught of it: the line for
    users is made of that text then. Whatever else aborts, all that was kept back is shown."""
    kept = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process, for what comes behind the block)
    names = ("stdout", "stderr")
    streams = [getattr(sys, name) for name in names]
    copies = [os.dup(number) for number in (1, 2)]
    for number, name, stream, copy in zip((1, 2), names, streams, copies, strict=True):
        stream.flush()
        options = {"encoding": stream.encoding, "errors": stream.errors, "buffering": 1, "closefd": False}
        setattr(sys, name, open(copy, "w", **options))  # noqa: SIM115
        os.dup2(kept.fileno(), number)

    def aborted(number: int) -> None:
        size = os.fstat(kept.fileno()).st_size
        text = os.pread(kept.fileno(), 2**20, max(0, size - 2**20)).decode(errors="replace")
        _, fatal, reason = text.rpartition(FATAL)
        last = text.rpartition(TERMINATED)[2]
        if not fatal and "gloo::" in last:  # of what one that is gone left undone; JAX finds out which, and aborts too
            time.sleep(HEARTBEAT + 15)
            reason = " ".join(last.split())[:300]
            os.write(copies[1], f"jaxrec: error: processes lost each other ({reason}); start all again with --resume\n"
                     .encode())  # fmt: skip
            os._exit(2)
        if not fatal:
            os.write(copies[1], text.encode())
            return
        line = one_line(f"jaxrec: error: {_explained(ranks, reason)}", 1_100)
        os.write(copies[1], f"{line}\n".encode())
        if ranks.rank == 0:
            time.sleep(3)  # the others ask this process which one is gone
        os._exit(2)

    _keep.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted))
    before = _signal(signal.SIGABRT, _keep[-1])
    try:
        yield
    finally:
        for number, name, stream, copy in zip((1, 2), names, streams, copies, strict=True):
            getattr(sys, name).flush()
            setattr(sys, name, stream)
            os.dup2(copy, number)
        _signal(signal.SIGABRT, before)


_keep: list[Any] = []
"""Handlers, which C calls for as long as the process lives."""


def _signal(number: int, handler: Any) -> Any:
    """C's ``signal``, whose handlers run in the midst of abort(); those of Python's run after it, never."""
    function = ctypes.CDLL(None).signal
    function.restype, function.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    return function(number, ctypes.cast(handler, ctypes.c_void_p))


def _explained(ranks: Ranks, reason: str) -> str:
    """What XLA's text says, in words."""
    if "RegisterTask" in reason or not ranks.names:
        # What a cluster says of itself JAX keeps to itself.
        state = getattr(sys.modules.get("jax._src.distributed"), "global_state", None)
        where = ranks.coordinator or f"auto, {getattr(state, 'coordinator_address', None) or 'an unknown address'}"
        rank = ranks.rank if ranks.coordinator else getattr(state, "process_id", None)
        proxies = [name for name in PROXIES if os.environ.get(name)]
        advice = f"raise --join-timeout{f', or unset {listed(proxies)}' if proxies else ''}"
        if rank == 0:
            return (f"--distributed {where}: not all processes came to rank 0 within {ranks.timeout} s; start all of "
                    f"them with this address, or {advice}")  # fmt: skip
        return (f"--distributed {where}: rank 0 did not answer there within {ranks.timeout} s, or waits for others; "
                f"see that it runs and can be reached, or {advice}")  # fmt: skip
    found = GONE.search(reason)
    gone = [int(number) for number in re.findall(r"\d+", found[1])] if found else [0]
    who = " and ".join(ranks.name(rank) for rank in gone)
    return (f"{who} has ended, or has not answered for {HEARTBEAT} s, and the others with it; see what ended it, then "
            "start all again with --resume")  # fmt: skip
