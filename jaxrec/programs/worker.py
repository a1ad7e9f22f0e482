"""A process that compiles for one target, since JAX reads what it is set up with when it starts: jobs come as JSON on
stdin, one line each of what was found goes to stdout. ``run`` starts it, with the target's environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from jaxrec.cli.command import command
from jaxrec.errors import UserError
from jaxrec.programs import private, targets
from jaxrec.programs.targets import Target

ERROR = re.compile(r"(\w+\.)*\w*(Error|Exception)\b")  # how the line of a traceback begins that says what happened
Job = dict[str, Any]
"""``does``: a function of this module, and what it takes."""


def check(target: Target) -> None:
    """Refuse a target that cannot be compiled for here."""
    private.check_version(target)
    targets.check_extra(target)


def run(target: Target, jobs: Sequence[Job], here: bool = False) -> Iterator[Any]:
    """What each job finds, in a process of its own; ``here``: on the devices of this machine. A mistake of the user's
    that ends it is raised here."""
    environment = {} if here and target.platform != "cpu" else target.environment()
    line = [sys.executable, "-m", "jaxrec.programs.worker", target.name]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(line, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=errors, text=True) as process,
    ):  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(list(jobs)))
        process.stdin.close()
        for text in process.stdout:
            if text.startswith("{"):  # compilers write to stdout as well
                found = json.loads(text)
                if "error" in found:
                    raise UserError(found["error"])
                yield found["found"]
        process.wait()
        errors.seek(0)
        said = errors.read()
    if process.returncode:
        lines = [line for line in said.strip().splitlines() if line.strip()] or ["no message"]
        last = next((line for line in reversed(lines) if ERROR.match(line)), lines[-1])
        raise UserError(f"--target {target.name}: the process that compiles for it ended with status "
                        f"{process.returncode}: {last}")  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Work through the jobs on stdin for the target that is named."""
    from jaxrec.programs import answers, measure

    functions: dict[str, Any] = {"plan": answers.plan, "measure": measure.measure, "benchmark": answers.benchmark}
    target = targets.parse(argv[0])
    for job in json.load(sys.stdin):
        try:
            found: dict[str, Any] = {"found": functions[job.pop("does")](target, **job)}
        except UserError as error:
            found = {"error": str(error)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(command(main))
