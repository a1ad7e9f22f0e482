"""One process owns a place, and what a killed one leaves says nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxrec.cli.lock import lock_file, owned
from jaxrec.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from jaxrec.cli.lock import owned
with owned(Path(sys.argv[1]), "works", "go"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "place"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        (tmp_path / "alias").symlink_to(place.parent)
        for name in (place, tmp_path / "alias" / "place"):
            with pytest.raises(UserError, match=rf"another process \(pid {other.pid}\) works; wait for it, or go"):
                owned(name, "works", "go").__enter__()
        other.kill()
    assert lock_file(place).exists()  # of the dead
    with owned(place, "works", "go"):
        pass
    assert not lock_file(place).exists()


def test_one_of_many_has_the_lock(tmp_path: Path) -> None:
    """Whoever gets the file of an owner that is just leaving has to notice."""
    inside, most, got = [0], [0], [0]

    def work() -> None:
        for _ in range(50):
            try:
                with owned(tmp_path / "place", "works", "go"):
                    inside[0] += 1
                    most[0], got[0] = max(most[0], inside[0]), got[0] + 1
                    inside[0] -= 1
            except UserError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and got[0]
    assert not list(tmp_path.iterdir())


def test_parents_are_made_and_go_where_nothing_is_in_them(tmp_path: Path) -> None:
    with owned(tmp_path / "a" / "b" / "c", "works", "go"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a parent of it is a file; go"), owned(tmp_path / "file" / "c", "works", "go"):
        pass
