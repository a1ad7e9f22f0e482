#!/usr/bin/env bash
# The recipe of the blends in configs/README.md, for any data set of sessions:
#
#   scripts/blend.sh data/diginetica checkpoints/diginetica 42     # data set, folder for the runs, seed
#
# Two networks are trained without the last 5 % of the training targets, on which the weights are fitted. They are trained
# again on all of training, and blended with these weights. A run that is there already is resumed or left as it is.
set -euo pipefail
data=$1 out=$2 seed=${3:-42} neighbours=(stan returns returns:after=1)

train() { # configuration, run, options
    python -m jaxrec.train --resume --config "configs/$1.yaml" --run "$out/$2" --data.path "$data" \
        --training.seed "$seed" "${@:3}"
}

held=(--data.validation_fraction 0.05 --training.metric mrr@20)
train gru4rec_diginetica "gru4rec-held-$seed" "${held[@]}"
train narm_plus_diginetica "narm_plus-held-$seed" "${held[@]}"
python -m jaxrec.blend --runs "$out"/{gru4rec,narm_plus}-held-"$seed" --neighbours "${neighbours[@]}" --run "$out/blend-held-$seed" --overwrite
train gru4rec_diginetica "gru4rec-$seed"
train narm_plus_diginetica "narm_plus-$seed"
python -m jaxrec.blend --runs "$out"/{gru4rec,narm_plus}-"$seed" --neighbours "${neighbours[@]}" --weights-of "$out/blend-held-$seed" \
    --run "$out/blend-$seed" --overwrite
python -m jaxrec.evaluate --run "$out/blend-$seed"
