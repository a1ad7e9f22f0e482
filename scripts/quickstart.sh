#!/usr/bin/env bash
# From nothing to recommendations in about a minute: .venv, synthetic sessions, GRU4Rec, evaluation, five items.
#   scripts/quickstart.sh                    PYTHON=python3.12 scripts/quickstart.sh
set -euo pipefail
started_in=$(pwd -P)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
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

say "Made in $root"
printf '    %-32s %s\n' "$venv" "Python with jaxrec" \
    data/synthetic "the data set: sessions whose best reachable result is known" \
    checkpoints/gru4rec_synthetic "the trained model, its metrics and learning_curve.png"

say "Next"
# The commands of the README are for this folder, and for the Python of this environment.
[ "$started_in" = "$root" ] || printf '    cd %q\n' "$root"
[ "$(cd "${VIRTUAL_ENV:-/}" 2>/dev/null && pwd -P)" = "$(cd "$venv" && pwd -P)" ] ||
    printf '    source %q\n' "$venv/bin/activate"
cat <<'NEXT'
    python -m jaxrec.evaluate --run checkpoints/gru4rec_synthetic --baselines all
    python -m jaxrec.recommend --run checkpoints/gru4rec_synthetic --items 3 7 --k 10
    python -m jaxrec.prepare events --help
The last one is for your own clicks; README.md goes on from there.
NEXT
