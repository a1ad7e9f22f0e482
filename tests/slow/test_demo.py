"""The demo page of each kind of run, in headless Chromium too, and what it says of mistakes.

Debian: ``apt-get install chromium chromium-driver``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from worlds import Worlds

pytest.importorskip("streamlit", reason="the demo needs streamlit: pip install -e '.[demo]'")
from streamlit.testing.v1 import AppTest

pytestmark = pytest.mark.slow
DEMO = ROOT / "scripts" / "demo.py"
PATIENCE = 300  # seconds: a busy machine is slow, not wrong
RUNS = ("gru4rec", "merrec", "autoint", "two_tower")


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    def start(*words: object) -> AppTest:
        monkeypatch.chdir(ROOT / "tests" / "old")
        monkeypatch.setattr(sys, "argv", [str(DEMO), *map(str, words)])
        return AppTest.from_file(DEMO, default_timeout=PATIENCE).run()

    return start


def test_a_mistake_is_one_line(open_page: Callable[..., AppTest], worlds: Worlds, tmp_path: Path) -> None:
    """Of a path that holds markup, too."""
    shutil.copytree(worlds.old("autoint"), tmp_path / "*a*_b_$c$")
    (tmp_path / "*a*_b_$c$" / "dataset" / "users.parquet").write_bytes(b"")
    page = open_page("--run", tmp_path / "*a*_b_$c$")
    assert not page.exception and not page.dataframe and len(page.error) == 1
    assert r"\*a\*\_b\_\$c\$" in page.error[0].value


@pytest.mark.parametrize("name", RUNS)
def test_the_controls_do_what_they_say(name: str, open_page: Callable[..., AppTest], worlds: Worlds) -> None:
    page = open_page("--run", worlds.old(name))

    def listed() -> list[Any]:
        assert not page.exception and not page.error
        found = page.dataframe[0].value
        return list(found[next(column for column in found.columns if column.endswith(" id"))])

    first = listed()
    assert len(first) == 10 and not page.warning
    page.sidebar.slider(key="k").set_value(20).run()
    assert listed()[:10] == first and len(listed()) == 20
    if name == "gru4rec":
        page.sidebar.multiselect(key="items").set_value([3, 17]).run()
        assert listed() != first and not {3, 17} & set(listed())
        page.sidebar.radio(key="who").set_value("A session of the test split").run()
        assert "What came next" in page.markdown[-1].value
    elif name == "merrec":
        page.sidebar.text_input(key="filter").set_value("price <= 20").run()
        assert page.dataframe[0].value["Price"].max() <= 20
        page.sidebar.text_input(key="filter").set_value("price <").run()
        assert "ends too early" in page.info[0].value and not page.exception and not page.dataframe
    else:
        before = listed()
        page.sidebar.radio(key="who").set_value("Somebody new").run()
        assert "nothing known" in page.markdown[0].value and listed() != before
        (age,) = (one for one in [*page.sidebar.number_input, *page.sidebar.selectbox] if one.label == "Age")
        (age.select_index(1) if name == "autoint" else age.set_value(25)).run()
        assert "age 2" in page.markdown[0].value


# ---- in a browser ----------------------------------------------------------------------------------------------------

IDLE = """const app = document.querySelector('[data-testid=stApp]');
    return app && app.dataset.testScriptState == 'notRunning'
        && !document.querySelector('[data-testid=stSpinner], [data-testid=stSkeleton], [data-stale=true]')"""
ROWS = """return [...document.querySelectorAll('[data-testid=stDataFrame] tbody tr')].map(row => row.innerText)"""


@contextmanager
def serve(run: Path, log: Path) -> Iterator[str]:
    """The page as a user starts it; yields its address. What it prints goes to ``log``."""
    with socket.socket() as place:
        place.bind(("localhost", 0))
        port = place.getsockname()[1]
    options = {"headless": "true", "address": "localhost", "port": port, "fileWatcherType": "none"}
    words = [f"--server.{name}={value}" for name, value in options.items()] + ["--browser.gatherUsageStats=false"]
    command = [sys.executable, "-m", "streamlit", "run", str(DEMO), *words, "--", "--run", str(run)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT / "tests" / "old", env=environment
        )
        try:
            wait(lambda: "URL" in log.read_text() or process.poll() is not None)
            yield f"http://localhost:{port}"
        finally:
            process.terminate()
            process.wait(30)


def wait(condition: Callable[[], Any]) -> Any:
    """Wait until it holds; returns what it found."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {PATIENCE} s"
        time.sleep(0.1)
    return found


def rows(driver: Any) -> list[str]:
    """The rows of the page's tables, once the script has run and everything is drawn."""
    wait(lambda: driver.execute_script(IDLE))
    return list(driver.execute_script(ROWS))


def click(driver: Any, css: str, text: str) -> None:
    def named() -> list[Any]:
        return [one for one in driver.find_elements("css selector", css) if one.text.endswith(text)]

    wait(named)[0].click()


@pytest.mark.parametrize("name", RUNS)
def test_in_a_browser(name: str, driver: Any, worlds: Worlds, tmp_path: Path) -> None:
    with serve(worlds.old(name), tmp_path / "log") as address:
        driver.get("about:blank")  # the last page misses its server
        driver.get_log("browser")
        driver.get(address)
        first = wait(lambda: rows(driver))
        assert len(first) == 10
        if name in ("autoint", "two_tower"):
            click(driver, "[data-testid=stRadio] label", "Somebody new")
            wait(lambda: len(rows(driver)) == 10 and rows(driver) != first)
        click(driver, "[data-testid=stSidebarNavLink]", "Run")
        wait(lambda: "Configuration" in driver.execute_script("return document.body.innerText"))
        click(driver, "[data-testid=stSidebarNavLink]", "Recommendations")
        wait(lambda: len(rows(driver)) == 10)  # what was chosen is kept
        assert not [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    assert "Traceback" not in (tmp_path / "log").read_text()
