"""scripts/colab_tpu.ipynb: as committed, executed whole on CPU, and what its install cell does on other runtimes."""

from __future__ import annotations

import shutil
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
INSTALL = 2  # number of the code cell
COLAB = {"jax": "0.7.2", "jaxlib": "0.7.2", "libtpu": "0.0.21.1", "numpy": "2.1.3", "orbax-checkpoint": "0.11.0"}
"""Of its TPU runtime in August 2026."""


def code_cells() -> list[str]:
    """The source of the notebook's code cells."""
    return [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


def output(cell: Any) -> str:
    """What a cell printed."""
    return "".join(one.get("text", "") for one in cell.outputs)


def test_all_cells_run_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the repository, as links, that commands find: nothing is installed over the editable one."""
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "jaxrec", "configs", "scripts/benchmark.py"):
        (checkout / name).symlink_to(ROOT / name)
    for name, value in {"PYTHONPATH": checkout, "PIP_NO_INDEX": 1, "JAXREC_NOTEBOOK_SMALL": 1}.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), "as committed"
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print('jax' in sys.modules)"))
    place = {"metadata": {"path": checkout / "scripts"}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    _, source, install, machine, data, train, resume, evaluate, recommend, throughput, imported = cells
    versions = f"jax {metadata.version('jax')}, jaxlib {metadata.version('jaxlib')}"
    assert output(source).startswith(f"jaxrec from {checkout} - ")
    assert f"unchanged: {versions}" in output(install) and "pip" not in output(install)
    assert "CpuDevice" in output(machine) and "best reachable on test" in output(data)
    assert "stopped; saved at step" in output(train) and "epoch 3:" not in output(train)
    assert "resuming at step" in output(resume) and "epoch 3:" in output(resume) and "epoch 1:" not in output(resume)
    assert "of optimum" in output(evaluate)
    assert any("image/png" in one.get("data", {}) for one in evaluate.outputs)
    assert output(recommend).splitlines()[1].split() == ["rank", "item", "score"]
    assert "events_per_s" in output(throughput) and "### gru4rec" in output(throughput)
    assert output(imported).strip() == "False", "the kernel would hold the TPU that commands need"

    # Stopped and resumed, it ended as if it had never been stopped.
    runs = checkout / "scripts" / "jaxrec-runs"
    (run,) = [place for place in runs.iterdir() if place.name not in ("data", "constraints.txt")]
    words = ["--config", ROOT / "configs" / "gru4rec_synthetic.yaml", "--training.epochs", 3]
    words += ["--data.path", runs / "data" / "synthetic-small"]
    assert call("train", *words, "--run", tmp_path / "reference") == 0
    assert steps_of(run) == steps_of(tmp_path / "reference")
    assert_same_run(run, tmp_path / "reference")


def test_a_runtimes_own_jax_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be run on runtimes: too old a jax gets an environment of jaxrec's own beside it; one that will do is
    held while the rest is added, and what changes it nevertheless is an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXREC_NOTEBOOK_SOURCE", str(ROOT))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    good = COLAB | {"jax": "0.10.1", "jaxlib": "0.10.1"}

    def install(versions: dict[str, str], after: dict[str, str]) -> list[list[str]]:
        """What the install cell wants to run on a runtime of these ``versions``, which become ``after``."""
        space, calls, now = dict[str, Any](), list[list[str]](), dict(versions)

        def note(*words: object) -> None:
            calls.append([str(word) for word in words])
            now.update(after)

        def distributions() -> list[SimpleNamespace]:
            return [SimpleNamespace(metadata={"Name": name}, version=version) for name, version in now.items()]

        for cell in code_cells()[:INSTALL]:
            exec(cell, space)
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "distributions", distributions)
            space |= {"FOLDER": tmp_path, "run": note}  # not what this Python imports
            exec(code_cells()[INSTALL], space)
        return calls

    made, installed = install(COLAB, {})
    place = str(tmp_path / "jaxrec-environment")
    assert made[1:] == ["-m", "venv", "--without-pip", place]
    assert installed[installed.index("--python") + 1] == f"{place}/bin/python"
    assert installed[-3:] == ["--editable", str(tmp_path), "jax[tpu]"]
    added, itself = install(good, {"duckdb": "1.5.0"})
    assert {"orbax-checkpoint>=0.12", "duckdb>=1.5"} <= set(added) and not any(one.startswith("jax>") for one in added)
    held = (tmp_path / added[added.index("--constraint") + 1]).read_text(encoding="utf-8")
    assert held.split() == ["jax==0.10.1", "jaxlib==0.10.1", "libtpu==0.0.21.1", "numpy==2.1.3"]
    assert "--no-deps" in itself and itself[-1] == str(tmp_path)
    with pytest.raises(Exception, match=r"installing changed jax 0\.10\.1"):
        install(good, {"jax": "0.10.2"})
