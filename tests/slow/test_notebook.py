"""scripts/colab_tpu.ipynb: as committed, executed whole on CPU, and what its install cell does on other runtimes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from helpers import ROOT, assert_same_run, call, steps_of
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / "scripts" / "colab_tpu.ipynb"
SOURCE, INSTALL = 1, 2  # code cells by number
COLAB = {  # of its TPU runtime in August 2026
    "jax": "0.7.2", "jaxlib": "0.7.2", "libtpu": "0.0.21.1", "numpy": "2.1.3", "flax": "0.11.2", "optax": "0.2.8",
    "orbax-checkpoint": "0.12.4", "scipy": "1.16.3", "pyarrow": "25.0.1", "pydantic": "2.13.4", "pyyaml": "6.0.3",
    "rich": "15.0.0", "matplotlib": "3.10.0",
}  # fmt: skip


def code_cells() -> list[str]:
    """The source of the notebook's code cells."""
    return [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


def output(cell: Any) -> str:
    """What a cell printed."""
    return "".join(one.get("text", "") for one in cell.outputs)


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The variables after the first two cells, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXREC_NOTEBOOK_SOURCE", str(ROOT))
    names: dict[str, Any] = {}
    for cell in code_cells()[: SOURCE + 1]:
        exec(cell, names)
    return names


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.accelerator == "TPU" and notebook.metadata.kernelspec.name == "python3"
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds == ["markdown", "code"] * 10
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None, cell.id


def execute(folder: Path, *more: str, **options: Any) -> list[Any]:
    """The notebook's code cells and some ``more``, executed in a folder."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources, **options).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository, as links, that commands find: nothing is installed over the editable one."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "jaxrec", "configs", "scripts/benchmark.py"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def test_all_cells_run_in_a_checkout(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_NOTEBOOK_SMALL", "1")
    cells = execute(checkout / "scripts", "import sys; print('jax' in sys.modules)")
    _, source, install, machine, data, train, resume, evaluate, recommend, throughput, imported = cells
    versions = f"jax {metadata.version('jax')}, jaxlib {metadata.version('jaxlib')}"
    assert output(source).startswith(f"jaxrec from {checkout} - ")
    assert f"unchanged: {versions}" in output(install) and "pip" not in output(install)
    assert "CpuDevice" in output(machine)
    assert "best reachable on test" in output(data)
    assert "stopped; saved at step" in output(train) and "epoch 3:" not in output(train)
    assert "resuming at step" in output(resume) and "epoch 3:" in output(resume) and "epoch 1:" not in output(resume)
    assert "of optimum" in output(evaluate)
    assert any("image/png" in one.get("data", {}) for one in evaluate.outputs)
    _, head, *table = output(recommend).splitlines()
    ranks = [line.split() for line in table]
    assert head.split() == ["rank", "item", "score"]
    assert [rank for rank, _, _ in ranks] == list("12345") and not {"1", "2"} & {item for _, item, _ in ranks}
    assert "events/s" in output(throughput)
    assert any(line.startswith("gru4rec") and "cross_entropy" in line for line in output(throughput).splitlines())
    assert output(imported).strip() == "False", "the kernel would hold the TPU that commands need"

    # Stopped and resumed, it ended as if it had never been stopped.
    runs = checkout / "scripts" / "jaxrec-runs"
    (run,) = [place for place in runs.iterdir() if place.name not in ("data", "constraints.txt")]
    words = ["--config", ROOT / "configs" / "gru4rec_synthetic.yaml", "--training.epochs", 3]
    words += ["--data.path", runs / "data" / "synthetic-small"]
    assert call("train", *words, "--run", tmp_path / "reference") == 0
    assert steps_of(run) == steps_of(tmp_path / "reference")
    assert_same_run(run, tmp_path / "reference")


# ---- where jaxrec comes from -----------------------------------------------------------------------------------------


def git(*words: object, cwd: Path) -> None:
    names = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *names, *map(str, words)], cwd=cwd, check=True, capture_output=True)


def test_a_git_source_is_cloned_and_brought_up_to_date(space: dict[str, Any], tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    (origin / "jaxrec").mkdir(parents=True)
    for name in ("pyproject.toml", "jaxrec/train.py"):
        (origin / name).write_text("first", encoding="utf-8")
    git("init", "--quiet", cwd=origin)
    for content in ("first", "second"):
        (origin / "jaxrec" / "train.py").write_text(content, encoding="utf-8")
        git("add", ".", cwd=origin)
        git("commit", "--quiet", "-m", content, cwd=origin)
        folder = space["find_source"](origin.as_uri())
        assert folder == tmp_path / "jaxrec-source"
        assert (folder / "jaxrec" / "train.py").read_text(encoding="utf-8") == content


def test_a_source_that_is_none_is_told(space: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(space["Stop"], match="no copy of jaxrec is here; enter the address"):
        space["find_source"]("")
    with pytest.raises(space["Stop"], match="SOURCE: '/nowhere' holds no jaxrec; enter the address"):
        space["find_source"]("/nowhere")
    with pytest.raises(space["Stop"], match="git ended with exit status"):
        space["find_source"](f"file://{tmp_path}/none")
    (tmp_path / "jaxrec.zip").write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(space["Stop"], match=r"jaxrec\.zip: cannot be unpacked \(.*\); upload it again$"):
        space["find_source"]("")


def make_source(folder: Path) -> Path:
    (folder / "jaxrec").mkdir(parents=True)
    for name in ("pyproject.toml", "jaxrec/train.py"):
        (folder / name).write_text(str(folder), encoding="utf-8")
    return folder


@pytest.mark.parametrize("inner", ["", "jaxrec-main"])
def test_an_uploaded_folder_or_zip_is_found(
    space: dict[str, Any], tmp_path: Path, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = tmp_path / "jaxrec-main"
    make_source(upload / inner)
    assert space["find_source"]("") == upload / inner
    shutil.make_archive("packed", "zip", upload)
    shutil.rmtree(upload)
    os.rename("packed.zip", "jaxrec-main (1).zip")
    make_source(tmp_path / "jaxrec-source")  # an earlier clone, which is no upload
    unpacked = tmp_path / "jaxrec-unpacked" / "jaxrec-main (1)" / inner
    assert space["find_source"]("") == space["find_source"]("jaxrec-main (1).zip") == unpacked
    assert (unpacked / "jaxrec" / "train.py").read_text(encoding="utf-8") == str(upload / inner)
    make_source(tmp_path / "jaxrec-newer")
    assert space["find_source"]("") == tmp_path / "jaxrec-newer"
    (tmp_path / "jaxrec-newer" / "scripts").mkdir()
    monkeypatch.chdir(tmp_path / "jaxrec-newer" / "scripts")  # the copy that the notebook stands in
    assert space["find_source"]("") == tmp_path / "jaxrec-newer"


def test_a_command_that_fails_stops_the_notebook(space: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(space["Stop"], match="exit status 3"):
        space["run"](sys.executable, "-c", "print('because'); raise SystemExit(3)")
    assert "because" in capsys.readouterr().out


CHILD = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved"), exit(143)))
print("epoch 1", flush=True)
time.sleep(60)
"""


def test_a_command_is_asked_to_stop_and_may_save(space: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    space["run"](sys.executable, "-c", CHILD, until="epoch 1")
    assert capsys.readouterr().out.splitlines()[-2:] == ["epoch 1", "saved"]


def test_the_stop_button_lets_a_command_save(space: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    def pressed(*words: str, **options: Any) -> None:
        print(*words, **options)
        if words[0] == "epoch 1\n":
            raise KeyboardInterrupt

    space["print"] = pressed
    with pytest.raises(KeyboardInterrupt):
        space["run"](sys.executable, "-c", CHILD)
    assert capsys.readouterr().out.splitlines()[-2:] == ["epoch 1", "saved"]


# ---- installing: what would be run on other runtimes -----------------------------------------------------------------


def install(
    space: dict[str, Any], monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], after: dict[str, str]
) -> list[list[str]]:
    """Run the install cell on a runtime of made-up ``versions``, which become ``after``; what it wanted to run."""
    calls: list[list[str]] = []
    now = dict(versions)

    def note(*words: object) -> None:
        calls.append([str(word) for word in words])
        now.update(after)

    def distributions() -> list[SimpleNamespace]:
        return [SimpleNamespace(metadata={"Name": name}, version=version) for name, version in now.items()]

    monkeypatch.setattr(metadata, "distributions", distributions)
    space["FOLDER"] = Path("copy").absolute()  # not what this Python imports
    space["FOLDER"].mkdir()
    shutil.copy(ROOT / "pyproject.toml", "copy")
    space["run"] = note
    exec(code_cells()[INSTALL], space)
    return calls


def test_an_old_jax_stays_and_jaxrec_gets_its_own(
    space: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = str(tmp_path / "jaxrec-environment")
    made, installed = install(space, monkeypatch, COLAB, {})
    assert made[1:] == ["-m", "venv", "--without-pip", place]
    assert installed[installed.index("--python") + 1] == f"{place}/bin/python"
    assert installed[-3:] == ["--editable", str(tmp_path / "copy"), "jax[tpu]"]
    printed = capsys.readouterr().out
    assert "jaxrec needs jax>=0.10: it gets an environment of its own" in printed
    assert "unchanged: jax 0.7.2, jaxlib 0.7.2, libtpu 0.0.21.1, numpy 2.1.3" in printed


def test_a_jax_that_will_do_is_held_while_the_rest_is_added(
    space: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = COLAB | {"jax": "0.10.1", "jaxlib": "0.10.1", "flax": "0.12.8", "orbax-checkpoint": "0.11.0"}
    added, itself = install(space, monkeypatch, good, {"duckdb": "1.5.0"})
    assert added[added.index("--constraint") + 2 :] == [
        "orbax-checkpoint>=0.12",
        "duckdb>=1.5",
        "lark>=1.2",
        "tensorboardX>=2.6",
    ]
    held = (tmp_path / added[added.index("--constraint") + 1]).read_text(encoding="utf-8")
    assert held.split() == ["jax==0.10.1", "jaxlib==0.10.1", "libtpu==0.0.21.1", "numpy==2.1.3"]
    assert "--no-deps" in itself and itself[-1] == str(tmp_path / "copy")
    for words in (added, itself):
        assert words[words.index("--python") + 1] == sys.executable
    shutil.rmtree("copy")
    with pytest.raises(space["Stop"], match=r"installing changed jax 0\.10\.1"):
        install(space, monkeypatch, good, {"jax": "0.10.2"})


def test_which_jax_fits_a_machine(space: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    install(space, monkeypatch, COLAB, {})
    jax_for = space["jax_for"]
    assert jax_for(COLAB, "") == "jax[tpu]"
    assert jax_for({}, "") == "jax"
    assert [jax_for({}, driver) for driver in ("550.54.15", "570.124.06", "580.65.06")] == [
        "jax[cuda12]", "jax[cuda12]", "jax[cuda13]",
    ]  # fmt: skip
    extras = metadata.metadata("jax").get_all("Provides-Extra") or []
    assert {"tpu", "cuda12", "cuda13"} <= set(extras), "jax has them no longer"
