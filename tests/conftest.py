"""Fixtures: a small synthetic data set and a run trained on it, made once; a compile cache shared by all processes."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Before JAX is imported, here and in the processes that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling programs that run once: so it takes a third. What is set already comes last, so
# that it wins.
os.environ["XLA_FLAGS"] = (
    f"--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    f"--xla_llvm_disable_expensive_passes=true {os.environ.get('XLA_FLAGS', '')}"
)
# Workers, and processes that tests start, take compiled programs from each other. One of your own stays, and makes the
# next time faster: scripts/test.sh has one in its environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxrec-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import gc
import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, SYNTHETIC, call, write_config
from worlds import Worlds

from jaxrec.cli import progress as progress_lines
from jaxrec.data.reading.duck import connect

# Compiled programs stay: looking through them for garbage, again and again, takes a twentieth of the time.
gc.set_threshold(10_000, 20, 10)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What commands keep beside runs, such as sentence embeddings, goes to a directory of this session."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_CACHE", str(place))
        yield place


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Data sets and runs of every kind, for all workers."""
    root = tmp_path_factory.getbasetemp()
    return Worlds((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "worlds")


@pytest.fixture(scope="session")
def script() -> Any:
    """``scripts/benchmark.py`` as a module: a process for each test would spend most of its time on imports."""
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "scripts" / "benchmark.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Files that take longest, the longest first: with --dist loadfile and --no-loadscope-reorder the workers end together.
LONGEST = (
    "test_models.py", "test_demo.py", "test_notebook.py", "test_exchange.py", "test_peers.py", "test_benchmark.py",
    "test_resume.py", "test_tune.py", "test_golden.py",
    "test_rows_commands.py", "test_text.py", "test_session_encoders.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def no_progress_lines() -> Iterator[None]:
    """What takes ten seconds on a slow machine prints the same as on a fast one."""
    every, progress_lines.EVERY = progress_lines.EVERY, 1e6
    yield
    progress_lines.EVERY = every


@pytest.fixture(scope="session", autouse=True)
def signal_handlers() -> Iterator[None]:
    """Training in process takes SIGTERM over; give it back to pytest after all."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def signal_handler() -> Iterator[None]:
    """The same after each test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set: 100 items (ids 1 to 100), about 1,200 training and 300 test sessions."""
    out = tmp_path_factory.mktemp("data") / "synthetic"
    assert call("prepare", "synthetic", "--out", out, *SYNTHETIC) == 0
    return out


@pytest.fixture(scope="session")
def config_file(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that trains on it in a second."""
    return write_config(tmp_path_factory.mktemp("config") / "small.yaml", dataset)


@pytest.fixture(scope="session")
def run(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained with it; tests must not change it."""
    path = tmp_path_factory.mktemp("runs") / "small"
    assert call("train", "--config", config_file, "--run", path) == 0
    return path


@pytest.fixture(scope="session")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """DuckDB as ``prepare`` uses it."""
    with connect(tmp_path_factory.mktemp("spill"), threads=1) as connection:
        yield connection
