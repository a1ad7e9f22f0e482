"""The demo page of each kind of run, in headless Chromium, and what it says of mistakes.

Debian: ``apt-get install chromium chromium-driver``. Pictures of the pages go to ``$DEMO_PICTURES``, if that is set.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
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
BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
RUNS = ("gru4rec", "merrec", "autoint", "two_tower")


# ---- without a browser -----------------------------------------------------------------------------------------------


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    def start(*words: object) -> AppTest:
        monkeypatch.chdir(ROOT / "tests" / "old")
        monkeypatch.setattr(sys, "argv", [str(DEMO), *map(str, words)])
        return AppTest.from_file(DEMO, default_timeout=PATIENCE).run()

    return start


def test_a_mistake_is_one_line(open_page: Callable[..., AppTest], worlds: Worlds, tmp_path: Path) -> None:
    shutil.copytree(worlds.old("autoint"), tmp_path / "*a*_b_$c$")
    (tmp_path / "*a*_b_$c$" / "dataset" / "users.parquet").write_bytes(b"")
    for words, names in (
        (["--run", tmp_path / "none"], "no run here"),
        ([], "the following arguments are required: --run"),
        (["--run", tmp_path / "*a*_b_$c$"], r"\*a\*\_b\_\$c\$"),
    ):
        page = open_page(*words)
        assert not page.exception and not page.dataframe and len(page.error) == 1
        assert names in page.error[0].value or names in page.error[0].value.replace("\\", "")


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


@contextmanager
def serve(run: Path, log: Path) -> Iterator[str]:
    """The page as a user starts it; yields its address. What it prints goes to ``log``."""
    with socket.socket() as place:
        place.bind(("localhost", 0))
        port = place.getsockname()[1]
    options = {"headless": "true", "address": "localhost", "port": port, "fileWatcherType": "none"}
    words = [f"--server.{name}={value}" for name, value in options.items()] + ["--browser.gatherUsageStats=false"]
    command = [sys.executable, "-m", "streamlit", "run", str(DEMO), *words, "--", "--run", str(run)]
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=ROOT / "tests" / "old",
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        try:
            wait(lambda: answers(f"http://localhost:{port}/_stcore/health") or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield f"http://localhost:{port}"
        finally:
            process.terminate()
            process.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def wait(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until it holds; returns what it found."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.1)
    return found


class Window:
    """A browser that shows the page."""

    def __init__(self, driver: Any, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures

    def find(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def open(self, address: str) -> None:
        self.driver.get("about:blank")  # the last page may have missed its server
        self.driver.get_log("browser")
        self.driver.get(address)
        self.settle()

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def settle(self) -> None:
        """Wait until the script has run and everything is drawn."""
        state = """const app = document.querySelector('[data-testid=stApp]');
            return app && app.dataset.testScriptState == 'notRunning'
                && !document.querySelector('[data-testid=stSpinner], [data-testid=stSkeleton], [data-stale=true]')
                && [...document.images].every(image => image.complete && image.naturalWidth > 0)"""
        calm = 0
        while calm < 3:  # a change takes a moment to reach the server
            wait(lambda: self.driver.execute_script(state))
            time.sleep(0.15)
            calm = calm + 1 if self.driver.execute_script(state) else 0

    def rows(self, number: int = 0) -> list[list[str]]:
        """What a table tells a screen reader."""
        script = """const tables = document.querySelectorAll('[data-testid=stDataFrame]');
            const rows = tables.length > arguments[0] ? tables[arguments[0]].querySelectorAll('tbody tr') : [];
            return [...rows].map(row => [...row.querySelectorAll('td')].map(cell => cell.innerText))"""
        found: list[list[str]] = wait(lambda: self.driver.execute_script(script, number))
        return found

    def click(self, css: str, text: str) -> None:
        wait(lambda: [one for one in self.find(css) if one.text.endswith(text)])[0].click()  # an icon is text too
        self.settle()

    def picture(self, name: str) -> None:
        self.driver.save_screenshot(self.pictures / name)

    def errors(self) -> list[str]:
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="the browser's tests need selenium: pip install selenium"
    )
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver here; Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    # Root, as which containers run, gets no sandbox; their /dev/shm is too small for Chromium.
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1400"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Window(driver, Path(os.environ.get("DEMO_PICTURES") or tmp_path_factory.mktemp("pictures")))
    finally:
        driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_in_a_browser(name: str, window: Window, worlds: Worlds, tmp_path: Path) -> None:
    with serve(worlds.old(name), tmp_path / "log") as address:
        window.open(address)
        assert len(window.rows()) == 10
        window.picture(f"{name}.png")
        if name in ("autoint", "two_tower"):
            first = window.rows()
            window.click("[data-testid=stRadio] label", "Somebody new")
            assert "nothing known" in window.text() and window.rows() != first
            window.picture(f"{name}-new.png")
        elif name == "gru4rec":
            window.click("[data-testid=stRadio] label", "A session of the test split")
            assert "What came next" in window.text()
            window.picture(f"{name}-test.png")
        window.click("[data-testid=stSidebarNavLink]", "Run")
        assert "Configuration" in window.text()
        window.picture(f"{name}-run.png")
        window.click("[data-testid=stSidebarNavLink]", "Recommendations")
        assert len(window.rows()) == 10, "forgot what was chosen"
        assert not window.errors()
    assert "Traceback" not in (tmp_path / "log").read_text()
