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
# Also the smallest, of which there are thousands: to read one takes half as long as to compile it.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # lowering notes where each operation stands: a tenth of the time

import gc
import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from helpers import ROOT, SYNTHETIC, call, write_config
from matplotlib.figure import Figure
from worlds import Worlds

from jaxrec.cli import command
from jaxrec.data.reading.duck import connect

# Compiled programs stay: looking through them for garbage, again and again, takes a tenth of the time.
gc.set_threshold(100_000, 20, 20)


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


@pytest.fixture(scope="session", autouse=True)
def slow_and_pretty() -> Iterator[None]:
    """What takes ten seconds on a slow machine prints the same as on a fast one; pictures, which a tenth of the time
    would go to, are drawn coarsely and without fitting the texts in, where a test is not about them; and programs that
    a long search or replay would drop, to save memory, stay for the tests that follow."""
    draw = Figure.savefig

    def coarsely(figure: Figure, *args: Any, **options: Any) -> None:
        figure.set_layout_engine("none")
        draw(figure, *args, **options | {"dpi": 65})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "EVERY", 1e6)
        patch.setattr(Figure, "savefig", coarsely)
        patch.setattr(jax, "clear_caches", lambda: None)
        yield


def signals() -> Iterator[None]:
    """Training in process takes SIGTERM over; give it back to pytest after all."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


signals_of_all = pytest.fixture(scope="session", autouse=True)(signals)
signals_of_each = pytest.fixture(autouse=True)(signals)


@pytest.fixture(scope="session")
def dataset(worlds: Worlds) -> Path:
    """A synthetic data set: 100 items (ids 1 to 100), about 1,200 training and 300 test sessions."""
    return worlds.once("synthetic", lambda out: call("prepare", "synthetic", "--out", out, *SYNTHETIC))


@pytest.fixture(scope="session")
def config_file(dataset: Path, worlds: Worlds) -> Path:
    """A configuration that trains on it in a second."""
    return worlds.once("small.yaml", lambda out: write_config(out, dataset))


@pytest.fixture(scope="session")
def run(config_file: Path, worlds: Worlds) -> Path:
    """A run trained with it; tests must not change it."""
    return worlds.once("small", lambda out: call("train", "--config", config_file, "--run", out))


@pytest.fixture(scope="session")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """DuckDB as ``prepare`` uses it."""
    with connect(tmp_path_factory.mktemp("spill"), threads=1) as connection:
        yield connection


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser's tests need selenium")
    browser, own = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or own is None:
        pytest.skip("no chromium and chromedriver here; Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # Root, as which containers run, gets no sandbox; their /dev/shm is too small for Chromium.
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1400"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(own))
    yield driver
    driver.quit()
