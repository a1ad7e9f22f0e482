"""The demo page of each kind of run: what its controls do, both pages, and what it says of mistakes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
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
