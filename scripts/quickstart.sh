#!/usr/bin/env bash
# From nothing to recommendations in about a minute: .venv, synthetic sessions, GRU4Rec, evaluation, five items.
#   scripts/quickstart.sh                    PYTHON=python3.12 scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { say "python $*"; "$venv/bin/python" "$@"; }

if [ ! -x "$venv/bin/python" ]; then
    say "Making $venv"
    "${PYTHON:-python3}" -m venv "$venv"
fi
say "Installing jaxrec"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e .

run -m jaxrec.prepare synthetic --out data/synthetic --overwrite
run -m jaxrec.train --config configs/gru4rec_synthetic.yaml --overwrite
run -m jaxrec.evaluate --run checkpoints/gru4rec_synthetic
run -m jaxrec.recommend --run checkpoints/gru4rec_synthetic --items 1 2 --k 5
