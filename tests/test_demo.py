"""The demo page: its logic without a browser, and all of it in headless Chromium where there is one.

Debian: ``apt-get install chromium chromium-driver``.
"""

from __future__ import annotations

import datetime
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

import numpy as np
import pytest
from helpers import ROOT, call, write_config

pytest.importorskip("streamlit", reason="the demo needs streamlit: pip install -e '.[demo]'")
from streamlit.testing.v1 import AppTest

DEMO = ROOT / "scripts" / "demo.py"
USERS, FILMS = 30, 40
PATIENCE = 300  # seconds: a busy machine is slow, not wrong
GENRES = ("Drama", "Comedy|Romance", "Animation|Children's|Comedy", "Action|Sci-Fi")
BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")


def write_films(folder: Path) -> None:
    """Films that women like when they are dramas, and men when they are not; of which some name is markup."""
    random = np.random.default_rng(0)
    folder.mkdir()
    women = random.random(USERS) < 0.5
    genres = [GENRES[film % len(GENRES)] for film in range(FILMS)]
    people = [
        f"{user + 1}::{'F' if woman else 'M'}::{random.choice([18, 25, 56])}::{random.integers(21)}::10000"
        for user, woman in enumerate(women)
    ]
    films = [f"{100 + film}::*Film* {film}, The ({1980 + film % 30})::{names}" for film, names in enumerate(genres)]
    ratings = []
    for user, woman in enumerate(women):
        for film in random.choice(FILMS, 20, replace=False):
            liked = (genres[film] == "Drama") == woman
            ratings.append(f"{user + 1}::{100 + film}::{random.choice([4, 5] if liked else [1, 2, 3])}::"
                           f"{random.integers(956_703_932, 1_046_454_590)}")  # fmt: skip
    for name, lines in {"users": people, "movies": films, "ratings": ratings}.items():
        (folder / f"{name}.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")


@pytest.fixture(scope="module")
def click_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small AutoInt of such films, evaluated."""
    folder = tmp_path_factory.mktemp("demo")
    write_films(folder / "raw")
    assert call("prepare", "movielens", "--raw", folder / "raw", "--out", folder / "data") == 0
    train(folder)
    assert call("evaluate", "--run", folder / "click_run", "--baselines", "item_mean", "bias") == 0
    return folder / "click_run"


def train(folder: Path) -> None:
    config = write_config(
        folder / "small.yaml",
        folder / "data",
        model={"name": "autoint", "embedding_dim": 8, "blocks": 1, "heads": 2, "attention_dim": 8, "layers": None},
        loss={"name": "binary", "n_sample": None},
        optimizer={"name": "adam", "learning_rate": 0.02},
        training={"epochs": 6, "batch_size": 32, "steps_per_block": 10, "metric": "auc"},
        evaluation={"k": [5]},
    )
    assert call("train", "--config", config, "--run", folder / "click_run") == 0


# ---- without a browser -----------------------------------------------------------------------------------------------


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    def start(*words: object) -> AppTest:
        monkeypatch.setattr(sys, "argv", [str(DEMO), *map(str, words)])
        return AppTest.from_file(DEMO, default_timeout=PATIENCE).run()

    return start


@pytest.fixture
def page(open_page: Callable[..., AppTest], click_run: Path) -> AppTest:
    found = open_page("--run", click_run)
    assert not found.exception and not found.error and not found.warning
    return found


def listed(page: AppTest) -> list[int]:
    """The films that are recommended."""
    assert not page.exception and not page.error
    return [int(film) for film in page.dataframe[0].value["Movie id"]]


def test_who_and_when_and_how_many_change_the_list(page: AppTest) -> None:
    first = listed(page)
    assert len(first) == 10
    chances = page.dataframe[0].value["Probability"].to_list()
    assert sorted(chances, reverse=True) == chances and 0 <= chances[-1] <= chances[0] <= 100
    assert list(page.dataframe[0].value) == ["Probability", "Title", "Genres", "Year", "Movie id"]
    page.sidebar.selectbox(key="user").select(7).run()
    assert listed(page) != first
    assert "User 7" in page.markdown[0].value
    assert len(listed(page.sidebar.slider(key="k").set_value(20).run())) == 20


def test_nothing_is_recommended_that_was_rated(page: AppTest) -> None:
    for user in (1, 2):
        page.sidebar.slider(key="k").set_value(50)
        page.sidebar.selectbox(key="user").select(user).run()
        rated = set(page.dataframe[1].value["Title"])
        assert len(rated) == 20 and not rated & set(page.dataframe[0].value["Title"])
        assert len(listed(page)) == FILMS - 20


def test_filters_keep_the_films_of_any_of_the_values(page: AppTest) -> None:
    page.sidebar.slider(key="k").set_value(50)
    page.sidebar.multiselect(key="only genres").select("Drama").run()
    assert set(page.dataframe[0].value["Genres"]) == {"Drama"} and 0 < len(listed(page)) <= FILMS / len(GENRES)
    page.sidebar.multiselect(key="only genres").select("Romance").run()
    assert set(page.dataframe[0].value["Genres"]) == {"Drama", "Comedy, Romance"}
    page.sidebar.multiselect(key="only genres").set_value(["Drama"])
    page.sidebar.multiselect(key="only genre1").select("Action").run()
    assert "leave nothing" in page.info[0].value and not page.exception


def test_somebody_new_gets_what_such_people_like(page: AppTest) -> None:
    page.sidebar.radio(key="who").set_value("Somebody new").run()
    assert "nothing known" in page.markdown[0].value
    found, dramas = {}, {}
    for gender in ("F", "M"):
        page.sidebar.selectbox(key="field gender").select(gender).run()
        found[gender] = listed(page)
        dramas[gender] = sum(page.dataframe[0].value["Genres"] == "Drama")
    assert "gender male" in page.markdown[0].value
    assert found["F"] != found["M"] and dramas["F"] > dramas["M"] + 2, dramas
    assert not page.expander or "Rated before" not in page.expander[0].label


def test_a_day_beyond_the_data_gets_a_note(page: AppTest) -> None:
    page.sidebar.date_input(key="date").set_value(datetime.date(2031, 5, 17)).run()
    assert len(listed(page)) == 10
    notes = [warning.value.replace("\\", "") for warning in page.warning]
    assert notes == [f"field 'rating_{part}': training has not seen '{value}'; it counts as unknown"
                     for part, value in (("year", 2031), ("decade", 2030))]  # fmt: skip


def test_another_film_is_explained(page: AppTest) -> None:
    choice = page.main.selectbox[0]
    assert len(choice.options) == 10 and choice.label == "Movie"
    first = page.code[0].value
    page.main.selectbox[0].select_index(3).run()
    assert not page.exception
    chance = page.dataframe[0].value["Probability"][3] / 100
    assert f"probability {chance:.4f}" in page.code[0].value
    assert page.code[0].value != first and "layer 1: each field" in first


def test_the_page_of_the_run(click_run: Path) -> None:
    folder, name = str(DEMO.parent), str(click_run)
    script = f"import sys; sys.path.insert(0, {folder!r}); import demo; demo.show_run(demo.load({name!r}))"
    page = AppTest.from_string(script, default_timeout=PATIENCE).run()
    assert not page.exception
    assert [part.value for part in page.subheader] == ["Learning curve", "Test split", "Reliability"]
    models, activity = page.dataframe[0].value, page.dataframe[1].value
    assert list(models["Model"]) == ["click_run", "item_mean", "bias"] and models["auc"].between(0, 1).all()
    assert {"Activity", "Gender", "Age"} <= {tab.label for tab in page.tabs}
    assert activity["rows"].sum() == 120
    assert "autoint" in page.code[0].value


def test_a_run_without_users_days_and_titles(open_page: Callable[..., AppTest], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["ad,size,place,price,likes,income,click"]
    for ad in random.integers(12, size=600):
        place, likes = random.choice(["top", "side"]), random.choice(["tea", "tea|jam"])
        income, click = random.integers(2000, 4000), random.integers(2)
        lines.append(f"$ad_{ad}$,{'SML'[ad % 3]},{place},{ad + 0.5},{likes},{income},{click}")
    (tmp_path / "ads.csv").write_text("\n".join(lines) + "\n")
    roles = "--label click --item ad --categorical size place --bag likes --numerical price income"
    words = f"rows --raw {tmp_path}/ads.csv --out {tmp_path}/data {roles} --item-fields size price".split()
    assert call("prepare", *words) == 0
    train(tmp_path)
    page = open_page("--run", tmp_path / "click_run")
    assert not page.exception and not page.error and not page.sidebar.radio and not page.sidebar.date_input
    every = page.dataframe[0].value
    assert (
        list(every) == ["Probability", "Size", "Price", "Ad id"] and every["Ad id"].str.fullmatch(r"\$ad_\d+\$").all()
    )
    page.sidebar.number_input(key="field income").set_value(9000)
    page.sidebar.multiselect(key="field likes").set_value(["tea", "jam"])
    page.sidebar.selectbox(key="field place").select("top")
    page.sidebar.multiselect(key="only size").set_value(["S", "L"]).run()
    assert not page.exception and len(page.dataframe[0].value) == 8
    assert all(option.startswith("$ad_") for option in page.main.selectbox[0].options)
    assert "likes tea, jam" in page.markdown[0].value.replace("\\", "")


MISTAKES = {
    "session run": "ranks sessions",
    "missing": "no run here",
    "no option": "the following arguments are required: --run",
    "other option": "--user: no such option",
    "damaged": "missing or damaged",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    mistake: str, open_page: Callable[..., AppTest], click_run: Path, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(click_run, tmp_path / "*a*_b_$c$")
    (tmp_path / "*a*_b_$c$" / "dataset" / "users.parquet").write_bytes(b"")
    words: dict[str, list[object]] = {
        "session run": ["--run", run],
        "missing": ["--run", tmp_path / "none"],
        "no option": [],
        "other option": ["--run", click_run, "--user", "3"],
        "damaged": ["--run", tmp_path / "*a*_b_$c$"],
    }
    page = open_page(*words[mistake])
    assert not page.exception and not page.dataframe
    assert len(page.error) == 1 and "\n" not in page.error[0].value
    assert MISTAKES[mistake] in page.error[0].value.replace("\\", "")
    if mistake == "damaged":
        assert r"\*a\*\_b\_\$c\$" in page.error[0].value


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
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
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

    def choose(self, kind: str, name: str, value: str) -> None:
        """Type a value into the selectbox or multiselect of that label."""
        (field,) = (one for one in self.find(f"[data-testid={kind}] input") if name in one.get_attribute("aria-label"))
        field.click()
        field.send_keys(value)
        wait(lambda: value in self.driver.execute_script(
            "return [...document.querySelectorAll('[role=option]')].map(one => one.innerText)"))  # fmt: skip
        field.send_keys("\ue007")  # Enter
        self.settle()

    def click(self, css: str, text: str) -> None:
        wait(lambda: [one for one in self.find(css) if one.text.endswith(text)])[0].click()  # an icon is text too
        self.settle()

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
        yield Window(driver, tmp_path_factory.mktemp("pictures"))
    finally:
        driver.quit()


@pytest.mark.slow
def test_in_a_browser(window: Window, click_run: Path, tmp_path: Path) -> None:
    with serve(click_run, tmp_path / "log") as address:
        window.open(address)
        first = window.rows()
        assert len(first) == 10
        assert "User 1" in window.text() and "Why this one?" in window.text()
        assert window.find("[data-testid=stImage] img")
        window.driver.save_screenshot(window.pictures / "first.png")

        window.choose("stSelectbox", "User", "7")
        assert "User 7" in window.text() and window.rows() != first
        window.choose("stMultiSelect", "Genres", "Drama")
        assert {row[2] for row in window.rows()} == {"Drama"}
        window.click("[data-testid=stExpander] summary", "Rated before: 20, the latest first")
        rated = {row[1] for row in window.rows(1)}
        assert rated and not rated & {row[1] for row in window.rows()}
        window.driver.save_screenshot(window.pictures / "dramas.png")

        window.click("[data-testid=stSidebarNavLink]", "Run")
        assert len(window.find("[data-testid=stImage] img")) == 2
        assert [row[0] for row in window.rows()] == ["click_run", "item_mean", "bias"]
        window.driver.save_screenshot(window.pictures / "run.png")
        window.click("[data-testid=stSidebarNavLink]", "Recommendations")
        assert "User 7" in window.text(), "forgot what was chosen"
        assert {row[2] for row in window.rows()} == {"Drama"}

        window.click("[data-testid=stRadio] label", "Somebody new")
        nobody = window.rows()
        window.choose("stSelectbox", "Gender", "male")
        assert "Somebody new: gender male" in window.text() and window.rows() != nobody
        window.driver.save_screenshot(window.pictures / "new.png")
        assert not window.errors()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_mistake_in_a_browser(window: Window, run: Path, tmp_path: Path) -> None:
    with serve(run, tmp_path / "log") as address:
        window.open(address)
        (alert,) = window.find("[data-testid=stAlert]")
        assert alert.text == f"{run}: a run of gru4rec; name one of autoint"
        assert "Traceback" not in window.text() and not window.find("[data-testid=stException]")
        assert not window.errors()
    assert "Traceback" not in (tmp_path / "log").read_text()
