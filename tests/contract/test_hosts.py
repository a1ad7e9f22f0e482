"""Several processes train as one does, end together, and refuse to train different things.

Ten kills at other moments, half a minute each:
    JAXREC_KILLS=10 JAXREC_KILL_SEED=1 python -m pytest tests/contract/test_hosts.py -s -k killed_host
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from devices import apart, block
from helpers import (
    ROOT,
    assert_same_arrays,
    assert_same_run,
    call,
    fails,
    load_parts,
    load_state,
    same_metrics,
    steps_of,
)
from hosts import BLOCK, blocks, ended, free_port, start, start_training
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.cli.hosts import Ranks, _explained
from jaxrec.data.dataset import open_dataset
from jaxrec.feeds import base
from jaxrec.ops import hosts
from jaxrec.tasks.base import load, make_task

KILLS = int(os.environ.get("JAXREC_KILLS", "4"))
SEED = int(os.environ.get("JAXREC_KILL_SEED", "0"))
SLOW = pytest.mark.slow
SOFTMAX: dict[str, Any] = {"loss": {"name": "softmax", "n_sample": None, "sample_alpha": None}}


def without_gone(line: str) -> str:
    """The rank that a line calls gone."""
    assert line.startswith("jaxrec: error: rank ") and "--resume" in line, line
    return line.split()[3]


# ---- as one ----------------------------------------------------------------------------------------------------------


def as_one(count: int, configs: Sequence[Path], out: Path) -> None:
    """20 steps in float64 on so many hosts of two devices differ from those on one device by the order of sums."""
    found = blocks(count, out, *configs)
    for config in configs:
        alone = block(configuration.load(config, [*BLOCK, "--mesh.data", "1"]))
        difference = apart(alone, found[str(config)])
        print(f"{config.stem}, {count} hosts of 2 devices: {difference:.2g}")
        assert 0 < difference < 1e-9, f"{config}; 0: one device did it all"


def test_two_hosts_train_as_one(worlds: Worlds, tmp_path: Path) -> None:
    """With sampled negatives in streamed blocks."""
    as_one(2, [worlds.config("gru4rec", noise=True)], tmp_path / "found")


@SLOW
def test_two_hosts_train_other_kinds_as_one(worlds: Worlds, tmp_path: Path) -> None:
    """And with all items as candidates, in resident blocks."""
    streamed = [worlds.config(name, noise=True) for name in ("merrec", "autoint", "two_tower")]
    as_one(2, [*streamed, worlds.config("narm", **SOFTMAX)], tmp_path / "found")


@SLOW
def test_four_hosts_train_as_one(worlds: Worlds, tmp_path: Path) -> None:
    as_one(4, [worlds.config("gru4rec", noise=True)], tmp_path / "found")


@SLOW
@pytest.mark.parametrize(("model", "count", "allowed", "sections"), [
    ("gru4rec", 2, 1e-6, {}), ("gru4rec", 4, 1e-6, {}), ("narm", 4, 1e-6, SOFTMAX),
    ("autoint", 2, 1e-6, {"training": {"epochs": 5}}),
    # Rounding grows faster here: so they are beside one process of as many devices as well.
    ("two_tower", 2, 1e-5, {"training": {"epochs": 3}}), ("merrec", 2, 1e-4, {"training": {"epochs": 6}}),
])  # fmt: skip
def test_hosts_train_the_run_of_one(
    model: str, count: int, allowed: float, sections: dict[str, Any], worlds: Worlds, tmp_path: Path
) -> None:
    """At least 200 steps in float32: weights and metrics, and what is told; then used by one process."""
    config, alone, run = worlds.config(model, **sections), worlds.run(model, **sections), tmp_path / "run"
    (status, out, err), *others = ended(start_training(count, "--config", config, "--run", run))
    assert status == 0 and all(line.startswith("jaxrec: note: validation") for line in err), err
    assert f"on {count} devices of {count} processes" in out and others == [(0, "", [])] * (count - 1)
    states = [load_state(one)[0] for one in (alone, run)]
    difference, of_carry = apart(*((one.params, one.tables) for one in states)), apart(*(one.carry for one in states))
    print(model, count, steps_of(run)[-1], f"steps: weights {difference:.2g}, carry {of_carry:.2g}")
    assert steps_of(run) == steps_of(alone) and steps_of(run)[-1] >= 200
    assert difference < allowed
    if allowed > 1e-6:
        words = ["-m", "jaxrec.train", "--config", config, "--run", tmp_path / "devices", "--mesh.data", count]
        ((status, *_),) = ended([start(words, environment={"JAX_NUM_CPU_DEVICES": count})])
        assert status == 0
        assert_same_arrays(*(load_state(one)[0] for one in (tmp_path / "devices", run)))
    for ours, theirs in zip(same_metrics(run), same_metrics(alone), strict=True):
        assert ours == {name: pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
                        for name, value in theirs.items()}  # fmt: skip
    assert call("evaluate", "--run", run) == 0


@SLOW
@pytest.mark.parametrize("sections", [{}, {"optimizer": {"name": "adam"}}], ids=["adagrad", "adam"])
def test_rows_are_dealt_over_hosts(sections: dict[str, Any], worlds: Worlds, tmp_path: Path) -> None:
    """Of two processes each has every other row; validated by both together, saved, and used by one."""
    config, alone = worlds.config("gru4rec", **sections), worlds.run("gru4rec", **sections)
    run = tmp_path / "run"
    (status, out, _), *others = ended(start_training(2, "--config", config, "--run", run, "--mesh.model", 2))
    assert status == 0 and "on 2 devices of 2 processes" in out and others == [(0, "", [])]
    one, two = (load(each, whole=True).weights for each in (alone, run))
    assert 0 < apart(one, two) < 1e-6, "0: nothing was dealt"
    assert call("evaluate", "--run", run) == 0


@SLOW
def test_hosts_continue_a_run_of_one(worlds: Worlds, tmp_path: Path) -> None:
    """With its weights, of which each process reads all; and one process goes on with those of the hosts."""
    words = "--config", worlds.config("gru4rec", training={"epochs": 1}), "--start-from"
    found = ended(start_training(2, *words, worlds.run("gru4rec"), "--run", tmp_path / "hosts"))
    assert [status for status, _, _ in found] == [0, 0] and "40 ids known, 0 new, 0 gone" in found[0][1], found
    assert call("train", *words, worlds.run("gru4rec"), "--run", tmp_path / "alone") == 0
    assert apart(load_parts(tmp_path / "alone"), load_parts(tmp_path / "hosts")) < 1e-6
    assert call("train", *words, tmp_path / "hosts", "--run", tmp_path / "next") == 0


# ---- a host reads its share ------------------------------------------------------------------------------------------


class Read(np.ndarray):
    """A mapped array that counts what is read of it."""

    count = 0

    def __getitem__(self, key: Any) -> Any:
        found = np.asarray(self)[key]
        Read.count += found.size
        return found


@pytest.mark.parametrize("model", ["gru4rec", "narm", "autoint"])
def test_a_host_cuts_its_share_and_reads_no_more(model: str, worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of four devices, put side by side, are the block; each reads a quarter of what the block takes."""
    config = configuration.load(worlds.config(model, noise=True))
    feed = make_task(config, open_dataset(config.data.path)).feed
    assert feed.shape.lanes % 4 == 0 or model == "narm"  # whose lanes are filled up by the mesh
    order = feed.order(0)
    steps = partial(base._steps, 0, feed.shape.steps)
    split = (jax.tree.map(lambda leaf: leaf.view(Read), feed.split[0]), *feed.split[1:])  # what is mapped comes first
    counts, cut = [], []
    takes: list[base.Take] = [base._all, *(partial(hosts.share, place, 4) for place in range(4))]
    for mine in takes:
        Read.count = 0
        cut.append(feed._cut(np, steps, mine, split, order))
        counts.append(Read.count)
    whole, *parts = cut
    for name, leaf in whole._asdict().items():
        if leaf is not None:
            size = leaf.shape[1] // 4 * 4
            joined = np.concatenate([getattr(part, name) for part in parts], axis=1)
            np.testing.assert_array_equal(joined, leaf[:, :size], err_msg=name)
    assert counts[1] > 0 and max(counts[1:]) <= counts[0] / 3


# ---- ended together --------------------------------------------------------------------------------------------------


def killed_at_random(run: Path, count: int, begin: Callable[..., list[subprocess.Popen[str]]], kills: int) -> None:
    """Train to the end with so many SIGKILLs of one process or another, and hold the rest to ending by themselves."""
    randoms, resume = random.Random(SEED), list[str]()
    for number in range(kills):
        processes, before = begin(*resume), steps_of(run)
        wait_for(processes, lambda before=before: steps_of(run) != before)  # type: ignore[misc]
        time.sleep(randoms.uniform(0, 1.5))
        victim = randoms.randrange(count)
        processes[victim].kill()
        killed = time.monotonic()
        found = ended(processes, 60)
        print(f"kill {number + 1}: rank {victim}, saved {steps_of(run)}; the rest ended within "
              f"{time.monotonic() - killed:.1f} s: {found[victim - 1][2]}")  # fmt: skip
        for rank, (status, _, err) in enumerate(found):
            if rank != victim:
                assert status == 2 and len(err) == 1 and without_gone(err[0]) == str(victim), (rank, status, err)
        resume = ["--resume"]
    found = ended(begin(*resume))
    assert [status for status, _, _ in found] == [0] * count, found


def wait_for(processes: Sequence[subprocess.Popen[str]], happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end and all(process.poll() is None for process in processes), "nothing was saved"
        time.sleep(0.02)


@SLOW
def test_a_killed_host_ends_the_others_and_resuming_is_exact(worlds: Worlds, tmp_path: Path) -> None:
    """At the end all arrays, positions and metrics are those of four processes that nobody disturbed."""
    config = worlds.config("gru4rec", noise=True, training={"steps_per_block": 8, "epochs": 2, "batch_size": 48})
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    begin = partial(start_training, 4, "--config", config, "--run")
    assert [status for status, _, _ in ended(begin(undisturbed))] == [0] * 4
    killed_at_random(run, 4, partial(begin, run), KILLS)
    assert_same_run(run, undisturbed)


@SLOW
def test_hosts_with_a_part_of_the_tables_each_go_on_exactly(worlds: Worlds, tmp_path: Path) -> None:
    """Rows dealt over two hosts: as one process but for rounding, and bit for bit after two kills."""
    config, run = worlds.config("gru4rec", training={"steps_per_block": 20, "save_every": 0}), tmp_path / "run"
    begin = partial(start_training, 2, "--config", config, "--mesh.data", 1, "--mesh.model", 2, "--run")
    assert [status for status, _, _ in ended(begin(tmp_path / "undisturbed"))] == [0, 0]
    killed_at_random(run, 2, partial(begin, run), min(KILLS, 2))
    assert_same_arrays(load_parts(run), load_parts(tmp_path / "undisturbed"))
    assert same_metrics(run) == same_metrics(tmp_path / "undisturbed")
    difference = apart(load_parts(worlds.run("gru4rec")), load_parts(run))
    print(f"rows dealt over 2 hosts, {steps_of(run)[-1]} steps: {difference:.2g}")
    assert difference < 1e-6


@SLOW
def test_a_host_that_hangs_ends_the_others(worlds: Worlds, tmp_path: Path) -> None:
    config = worlds.config("gru4rec", noise=True, training={"steps_per_block": 8, "batch_size": 48})
    run = tmp_path / "run"
    processes = start_training(3, "--config", config, "--run", run)
    wait_for(processes, lambda: bool(steps_of(run)))
    processes[1].send_signal(signal.SIGSTOP)
    try:
        for status, _, err in ended([processes[0], processes[2]], 60):
            assert status == 2 and len(err) == 1 and without_gone(err[0]) == "1", (status, err)
    finally:
        processes[1].kill()
        processes[1].communicate()


@SLOW
def test_a_signal_to_one_stops_all_at_the_same_block(worlds: Worlds, tmp_path: Path) -> None:
    """SIGTERM to the last process; one process alone goes on from there, and three at the end of that."""
    sections: Any = {"training": {"steps_per_block": 8, "epochs": 3, "batch_size": 48}, "optimizer": {"schedule": None}}
    config, run = worlds.config("gru4rec", noise=True, **sections), tmp_path / "run"
    processes = start_training(2, "--config", config, "--run", run)
    wait_for(processes, lambda: bool(steps_of(run)))
    processes[1].terminate()
    (status, out, err), other = ended(processes)
    assert status == 143 and f"stopped; saved at step {steps_of(run)[-1]}, --resume" in out and not err
    assert other == (143, "", [])
    step = steps_of(run)[-1]
    assert 0 < int(load_state(run)[0].step) == step < 3 * 89
    assert call("train", "--config", config, "--run", run, "--resume") == 0
    longer = ended(start_training(3, "--config", config, "--run", run, "--resume", "--training.epochs", 4))
    assert [status for status, _, _ in longer] == [0, 0, 0] and "resuming at step" in longer[0][1], longer
    assert apart(load_parts(run), load_parts(worlds.run("gru4rec", noise=True, **_longer(sections)))) < 1e-3


def _longer(sections: dict[str, Any]) -> dict[str, Any]:
    return sections | {"training": sections["training"] | {"epochs": 4}}


# ---- refused ---------------------------------------------------------------------------------------------------------


@SLOW
def test_what_differs_between_hosts_is_refused(worlds: Worlds, tmp_path: Path) -> None:
    """One line of rank 0, status 2 of all, and nothing is made. Where the data lie is no difference."""
    config, run = worlds.config("gru4rec"), tmp_path / "run"
    shutil.copytree(ROOT / "jaxrec", tmp_path / "other" / "jaxrec", ignore=shutil.ignore_patterns("configs"))
    with open(tmp_path / "other" / "jaxrec" / "errors.py", "a", encoding="utf-8") as stream:
        stream.write("# changed\n")
    shutil.copytree(worlds.data("sessions"), tmp_path / "same")
    cases: list[tuple[list[object], list[Path], str]] = [
        (["--training.seed", "7"], [], "the configuration differs .*training.seed is 7 there, 42 on rank 0"),
        (["--data.path", worlds.data("sessions", noise=True)], [], "the data set differs"),
        (["--data.path", tmp_path / "none"], [], "none: no data set here"),
        ([], [tmp_path / "other"], "the code of jaxrec differs .*sources"),
        (["--data.path", tmp_path / "same", "--resume"], [], "the options differ from .*run --resume there, --run"),
        (["--mesh.data", "1"], [], "mesh.data: 1 of the 2 devices of 2 processes would"),
    ]
    for words, paths, message in cases:
        where = f"127.0.0.1:{free_port()}"
        line = ["-m", "jaxrec.train", "--config", config, "--run", run, "--distributed", where, "--count", 2]
        found = ended([start([*line, "--rank", 0]), start([*line, "--rank", 1, *words], paths)])
        print(found[0][2])
        assert [status for status, _, _ in found] == [2, 2], found
        assert len(found[0][2]) == 1 and not found[1][2], found
        assert found[0][2][0].startswith("jaxrec: error: rank 1 ("), found
        assert re.search(message, found[0][2][0]), found
    assert not run.exists()


@SLOW
def test_hosts_that_a_cluster_names_find_each_other(worlds: Worlds, tmp_path: Path) -> None:
    """As srun sets the environment of its tasks."""
    config, run = worlds.config("gru4rec", training={"epochs": 1}), tmp_path / "run"
    words = ["-m", "jaxrec.train", "--config", config, "--run", run, "--distributed", "auto"]
    job = {"SLURM_JOB_ID": free_port(), "SLURM_STEP_NODELIST": "localhost,node2", "SLURM_NTASKS": 2, "SLURM_LOCALID": 0}
    found = ended([start(words, environment=job | {"SLURM_PROCID": rank}) for rank in range(2)])
    assert [(status, err) for status, _, err in found] == [(0, []), (0, [])], found
    assert "on 2 devices of 2 processes" in found[0][1] and not found[1][1]
    ((status, _, err),) = ended([start([*words, "--join-timeout", 2], environment=job | {"SLURM_PROCID": 1})])
    assert status == 2 and len(err) == 1 and "--distributed auto, localhost:" in err[0], err


@SLOW
def test_hosts_that_do_not_find_each_other_say_so() -> None:
    """The address and the time, in one line."""
    for rank, message in (
        (0, "not all processes came to rank 0 within 3 s"),
        (1, "rank 0 did not answer there within 3 s"),
    ):
        where = f"127.0.0.1:{free_port()}"
        words = ["-m", "jaxrec.train", "--config", "sessions", "--distributed", where, "--rank", rank, "--count", 2]
        ((status, _, err),) = ended([start([*words, "--join-timeout", 3])])
        assert status == 2 and len(err) == 1 and f"--distributed {where}: {message}" in err[0], err
    ((status, _, err),) = ended([start(["-m", "jaxrec.train", "--config", "sessions", "--distributed", "auto"])])
    assert status == 2 and len(err) == 1 and "--distributed auto: this is none of Slurm, Open MPI" in err[0], err


@pytest.mark.parametrize(("words", "message"), [
    ("--rank 1", "--rank and --count: of processes that --distributed"),
    ("--distributed auto --count 2", "--distributed auto: finds rank and count"),
    ("--distributed node1 --rank 0 --count 2", "--distributed node1: expected auto, or HOST:PORT"),
    ("--distributed node1:99999 --rank 0 --count 2", "expected auto, or HOST:PORT"),
    ("--distributed node1:500 --rank 2 --count 2", "the rank below the count; found 2 and 2"),
    ("--distributed node1:500 --rank 0", "needs --rank and --count"),
    ("--distributed node1:500 --rank x --count 2", "--rank: 'x': expected a whole number"),
])  # fmt: skip
def test_options_that_name_no_process(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, "train", "--config", "sessions", *words.split(), names=message)


def test_the_runtime_s_text_becomes_a_line() -> None:
    """Of what XLA says before it aborts."""
    ranks = Ranks("node0:5000", 1, 4, 60, ["node0", "node1", "node2", "node3"])
    gone = (
        "errors. absl::Status: UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n2, 3\nThe"
    )
    assert _explained(ranks, gone).startswith("rank 2 (node2) and rank 3 (node3) has ended, or has not answered")
    lost = "absl::Status: UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was"
    assert _explained(ranks, lost).startswith("rank 0 (node0) has ended")
    late = (
        "absl::Status: DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/RegisterTask"
    )
    ranks.names.clear()
    assert "node0:5000: rank 0 did not answer there within 60 s" in _explained(ranks, late)


ABORTING = """
import os, threading, time
from jaxrec.cli import hosts
hosts.HEARTBEAT = -14
ranks = hosts.Ranks("node0:5000", 1, 2, 60, ["node0", "node1"])

def heartbeat():
    time.sleep(0.3)
    os.write(2, (hosts.FATAL + " lost its leader. CoordinationService is gone").encode())
    os.abort()

with hosts._libraries_aside(ranks):
    threading.Thread(target=heartbeat).start() if {noticed} else None
    os.write(2, b"terminate called after throwing an instance of 'gloo::EnforceNotMet'\\\\n what(): 1320 vs 4")
    os.abort()
"""


@pytest.mark.parametrize(("noticed", "told"), [
    (True, r"jaxrec: error: rank 0 \(node0\) has ended, .* --resume"),
    (False, r"jaxrec: error: processes lost each other \('gloo::EnforceNotMet'.* 1320 vs 4\); start all again"),
])  # fmt: skip
def test_a_collective_that_breaks_off_tells_who_is_gone(noticed: bool, told: str) -> None:
    """What another's death leaves undone aborts a process in C++, often before it is known whose death it was."""
    ((status, out, err),) = ended([start(["-c", ABORTING.format(noticed=noticed)])])
    assert (status, out, len(err)) == (2, "", 1) and re.match(told, err[0]), err
