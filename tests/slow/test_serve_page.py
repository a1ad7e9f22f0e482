"""The server's page in headless Chromium, of each kind of run."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from helpers import spawn
from worlds import Worlds

pytestmark = pytest.mark.slow
QUERIES = {"gru4rec": '{"items": [3, 17]}', "merrec": '{"events": [{"item": 7, "event": "item_view"}]}',
           "autoint": '{"user": 3}', "two_tower": '{"profile": {"age": 25}}'}  # fmt: skip


def wait(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def has_rows(driver: Any, n: int) -> bool:
    return len(driver.find_elements("tag name", "tr")) == n


@pytest.mark.parametrize("name", QUERIES)
def test_the_page_recommends(name: str, driver: Any, worlds: Worlds) -> None:
    server = spawn("serve", "--run", worlds.old(name), "--port", 0)
    assert server.stdout is not None
    try:
        driver.get(server.stdout.readline().partition(": ")[0])
        query, ask, note = (driver.find_element("id", one) for one in ("query", "ask", "note"))
        wait(lambda: "it reads" in driver.find_element("id", "run").text)
        for text, rows in ((QUERIES[name], 11), ("{}", 11), (QUERIES[name].replace(":", ":: "), 0)):
            query.clear()
            query.send_keys(text)
            ask.click()
            wait(partial(has_rows, driver, rows))
        wait(lambda: "JSON" in note.text)  # the browser's own words
        query.clear()
        query.send_keys('{"itms": [1]}')
        ask.click()
        wait(lambda: "itms" in note.text)
        # The browser tells of the last answer, which was meant.
        assert [one["message"] for one in driver.get_log("browser") if "422" not in one["message"]] == []
    finally:
        server.terminate()
        server.communicate(timeout=60)
