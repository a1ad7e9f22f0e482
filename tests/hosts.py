"""Several processes on this machine in the place of several hosts: how tests start them, and a program for each.

python hosts.py PORT RANK COUNT OUT CONFIG ...  what ``devices.block`` says of each configuration on two devices a
                                                process, written by rank 0 to OUT
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from devices import block

from jaxrec import config as configuration

ROOT = Path(__file__).resolve().parent.parent
BLOCK = ("--optimizer.clip_norm", "1", "--training.steps_per_block", "20")
"""Of 20 steps, with a norm that all processes have to agree on."""

CACHE: dict[str, object] = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.1}
"""Hosts compile the same small programs at the same moment: one would read a file that another has begun to write."""


def free_port() -> int:
    """One that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(
    words: Sequence[object], paths: Sequence[Path] = (), environment: dict[str, object] | None = None
) -> subprocess.Popen[str]:
    """A Python process with the package of this checkout, or of another place in ``paths``; warnings are errors."""
    more = {name: str(value) for name, value in (CACHE | (environment or {})).items()}
    path = os.pathsep.join(map(str, [*paths, ROOT, ROOT / "tests"]))
    return subprocess.Popen(
        [sys.executable, "-W", "error", *map(str, words)], text=True, env=os.environ | {"PYTHONPATH": path} | more,
        cwd=paths[0] if paths else ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_training(count: int, *words: object) -> list[subprocess.Popen[str]]:
    """Processes that train one run, by rank."""
    where = f"127.0.0.1:{free_port()}"
    return [start(["-m", "jaxrec.train", *words, "--distributed", where, "--rank", rank, "--count", count])
            for rank in range(count)]  # fmt: skip


def ended(processes: Sequence[subprocess.Popen[str]], timeout: float = 240) -> list[tuple[int, str, list[str]]]:
    """Status, stdout and lines of stderr of each, without those that say how far it is."""
    outputs = [process.communicate(timeout=timeout) for process in processes]
    lines = [[line for line in err.splitlines() if not line.endswith((" left", " so far"))] for _, err in outputs]
    return [(one.returncode, out, err) for one, (out, _), err in zip(processes, outputs, lines, strict=True)]


def blocks(count: int, out: Path, *configs: Path) -> dict[str, object]:
    """What the program says."""
    port = free_port()
    for status, _, err in ended([start([__file__, port, rank, count, out, *configs]) for rank in range(count)]):
        assert status == 0, err[-20:]
    found: dict[str, object] = pickle.loads(out.read_bytes())
    return found


def main(port: str, rank: str, count: str, out: str, *configs: str) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(rank), cluster_detection_method="deactivate")
    found = {config: block(configuration.load(config, BLOCK)) for config in configs}
    if rank == "0":
        Path(out).write_bytes(pickle.dumps(found))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
