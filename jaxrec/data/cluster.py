"""Ray, as ``--engine ray`` uses it: tasks that leave files, and are done a second time where they fail.

The cluster is the one that the environment variable ``RAY_ADDRESS`` names, where jaxrec is installed and the directory
of the output can be reached on every machine; without it, processes of this machine.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxrec.errors import UserError, one_line

ADDRESS = "RAY_ADDRESS"
MEMORY = 80 << 20  # bytes of Ray's object store, the least it takes: all that is large goes through files
PATIENCE = 10.0  # seconds until an address has to answer
MOST_WORKERS = 4096
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # which also asks and notes
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # about which it would warn
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # of a task that ends badly our own line tells
}


@dataclass(frozen=True)
class Cluster:
    """A Ray that has been started or joined."""

    workers: int  # tasks at a time
    local: bool  # on this machine

    def memory_limit(self, threads: int) -> str:
        """What a task's DuckDB may take, evaluated where the task runs: half the memory, divided among the tasks."""
        beside = self.workers + 1 if self.local else max(1, (os.cpu_count() or 1) // threads)
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2 // beside}B"

    def each(
        self, task: Callable[..., Any], calls: Mapping[str, Sequence[Any]], at_once: type[Exception] | None = None,
        cpus: int = 1, gpu: bool = False,
    ) -> Iterator[tuple[str, Any]]:  # fmt: skip
        """The results of a task, in the order in which they come, by the name of each call, whose arguments ``calls``
        has. What fails is done once more, unless by the error ``at_once``, which is the user's.

        Args:
            cpus: processors that a task takes, or all of the largest machine, as a task that fits none waits for ever.
            gpu: whether it also takes a GPU, where there is one.
        """
        import ray

        gpus = int(gpu and ray.cluster_resources().get("GPU", 0) >= 1)
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        remote = ray.remote(num_cpus=max(1, min(cpus, int(largest))), num_gpus=gpus, max_retries=0)(task)
        waiting, failed, running = list(calls)[::-1], set[str](), dict[Any, str]()
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    name = waiting.pop()
                    running[remote.remote(*calls[name])] = name
                (finished, *_), _ = ray.wait(list(running))
                name = running.pop(finished)
                try:
                    yield name, ray.get(finished)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None)
                    if at_once and isinstance(cause, at_once):
                        raise cause from None
                    if name in failed:
                        raise UserError(f"{name} failed twice: {_reason(error)}; mend that, and the same command goes "
                                        "on with what is not finished") from None  # fmt: skip
                    failed.add(name)
                    waiting.append(name)
        finally:
            for one in running:
                ray.cancel(one, force=True)


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    if isinstance(cause, UserError):
        return str(cause)
    if cause is None:  # the process, not the task
        return f"its process ended ({one_line(str(error).splitlines()[0], 200)}); perhaps it needed more memory"
    return one_line(f"{type(cause).__name__}: {cause}", 300)


@contextmanager
def cluster(workers: int | None) -> Iterator[Cluster]:
    """A Ray that runs ``workers`` tasks at a time (None: as many as there are processors)."""
    try:
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
        import ray
    except ImportError:
        raise UserError("--engine ray: needs Ray, which is not installed; pip install 'jaxrec[cluster]', or leave out "
                        "--engine") from None  # fmt: skip
    address, ours = os.environ.get(ADDRESS), not ray.is_initialized()
    if ours:
        _start(ray, address, workers)
    try:
        yield Cluster(workers or max(1, int(ray.cluster_resources().get("CPU", 1))), local=not address)
    finally:
        if ours:
            ray.shutdown()


def _start(ray: Any, address: str | None, workers: int | None) -> None:
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():  # which Ray itself would try for many minutes, and say so
        try:
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise _no_answer(address, error) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        quiet |= {"num_cpus": workers or processors, "include_dashboard": False, "object_store_memory": MEMORY}
    try:
        ray.init(**quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _no_answer(address, error) from None


def _no_answer(address: str | None, error: Exception) -> UserError:
    where = f"{ADDRESS} {address}: no Ray answers there" if address else "--engine ray: Ray does not start"
    return UserError(f"{where} ({one_line(str(error), 200)}); start one with 'ray start --head', or unset {ADDRESS}")
