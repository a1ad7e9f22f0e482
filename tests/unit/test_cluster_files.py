"""The files in ``scripts/cluster`` can be read, say how they are used, and use options that there are."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module

import pytest
import yaml
from helpers import ROOT

from jaxrec import config as configuration
from jaxrec.cli.startup import module_of

PLACE = ROOT / "scripts" / "cluster"
FILES = sorted(file.name for file in PLACE.iterdir())


def explanation(name: str) -> list[str]:
    """The lines of comments that a file begins with, without ``#!``."""
    lines = (PLACE / name).read_text(encoding="utf-8").splitlines()
    lines = lines[1:] if lines[0].startswith("#!") else lines
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("# "))]


def commands(name: str) -> list[list[str]]:
    """The words of each ``python -m jaxrec…`` of a file, in comments too; in YAML a word may stand on a line."""
    text = (PLACE / name).read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"\n\s+- ", " ", text)
    return [line.split() for line in re.findall(r"python -m jaxrec\.(\S+ .*)", text)]


def test_there_is_a_file_for_each_kind_of_cluster() -> None:
    assert FILES == ["jobset.yaml", "ray.yaml", "train.sbatch"]


@pytest.mark.parametrize("name", FILES)
def test_five_lines_explain_a_file(name: str) -> None:
    assert len(explanation(name)) == 5 and all(len(line) <= 120 for line in explanation(name))


@pytest.mark.parametrize("name", FILES)
def test_options_of_a_file_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands(name)
    for command, *words in commands(name):
        asked = [words[0]] if command == "prepare" else []
        with pytest.raises(SystemExit):
            import_module(module_of(command)).main([*asked, "--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        options = [word for word in words if word.startswith("--")]
        assert options and set(options) <= known, (command, set(options) - known)


def test_the_job_for_slurm_is_bash_and_asks_for_what_it_starts() -> None:
    file = PLACE / "train.sbatch"
    assert subprocess.run(["bash", "-n", file], capture_output=True, check=False).returncode == 0
    directives = dict(re.findall(r"^#SBATCH --(\S+?)(?:=(\S+))?$", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert directives["ntasks-per-node"] == directives["gpus-per-node"] == "1"
    assert directives["signal"].startswith("TERM@")


def test_the_jobset_starts_as_many_pods_as_the_slice_has_hosts() -> None:
    jobset = yaml.safe_load((PLACE / "jobset.yaml").read_text(encoding="utf-8"))
    assert jobset["kind"] == "JobSet" and jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    configuration.files.find(container["command"][container["command"].index("--config") + 1], "configuration")


def test_the_cluster_of_ray_has_a_head_and_workers() -> None:
    cluster = yaml.safe_load((PLACE / "ray.yaml").read_text(encoding="utf-8"))
    kinds = cluster["available_node_types"]
    assert cluster["head_node_type"] in kinds and len(kinds) == 2
    assert all(kind["node_config"]["machineType"] and kind["resources"]["CPU"] for kind in kinds.values())
    assert kinds["worker"]["max_workers"] <= cluster["max_workers"]
