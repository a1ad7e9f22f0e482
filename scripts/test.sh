#!/usr/bin/env bash
# Lints, type-checks and runs the fast tests in .venv, which is made on first use.
#   scripts/test.sh [--all] [pytest options]        --all: the slow tests as well, and a few with XLA's default flags
#   PYTHON=python3.12 scripts/test.sh        VENV=/tmp/venv scripts/test.sh
#   JOBS=4 scripts/test.sh (2 workers otherwise)        EXTRAS=compile-tpu scripts/test.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
all=
if [ "${1:-}" = --all ]; then
    all=yes
    shift
fi
venv=$(realpath -m "${VENV:-.venv}")

if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
fi
# Installing again is quick when nothing changed, and finds a dependency that was added since.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e ".[test${EXTRAS:+,$EXTRAS}]"

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# Compiled programs stay with the environment: the second time takes half as long.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$venv/cache}
mkdir -p "$JAX_COMPILATION_CACHE_DIR"
find "$JAX_COMPILATION_CACHE_DIR" -type f -mtime +14 -delete
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
# Two workers: compiling, which most tests wait for, uses one core. They share worlds (tests/worlds.py) and compiled
# programs, and take tests from each other in the end.
tests() {
    "$venv/bin/python" -m pytest -n "${JOBS:-2}" --dist worksteal "$@"
}
if [ -z "$all" ]; then
    tests -m "not slow" "$@"
else
    tests "$@"
    # tests/conftest.py has XLA optimise little, as most programs run once; numbers have to hold with its defaults too.
    XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true ${XLA_FLAGS:-}" tests -m numbers "$@"
fi
