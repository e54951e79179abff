#!/usr/bin/env bash
# What a GPU makes of a training step, in eight minutes: the grid against stock, the best micro-batch, and what each part
# gives. MFU is the share of the bf16 matrix rate that the same run measured.
#
#   bash benchmarks/gpu.sh
#   MODELS=tiny LENGTH=128 TOKENS=512 MICRO_BATCHES="2 4" BF16=off VOCABULARY=8192 bash benchmarks/gpu.sh    a try on a CPU
#
# Needs torch and transformers; rows that need deepspeed say so where it is missing, and stock reads from a list where
# datasets is.
set -euo pipefail
cd "$(dirname "$0")/.."

export PYTHON=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)} # it installs nothing
export DATASET=${DATASET:-docstrings}
export WORK=${WORK:-data/benchmarks}
export OUTPUT=${OUTPUT:-$WORK/results}
export MODELS=${MODELS:-medium base} # the first is the one whose parts are looked at
export LENGTH=${LENGTH:-512}
export TOKENS=${TOKENS:-32768} # of a micro-batch: 64 sequences of 512
export MICRO_BATCHES=${MICRO_BATCHES:-32 64 128 256}
export BF16=${BF16:-on} COMPILE=${COMPILE:-on}
export VOCABULARY=${VOCABULARY:-50265}

read -ra models <<<"$MODELS"
read -ra micro_batches <<<"$MICRO_BATCHES"
common=(
    --dataset "$DATASET" --work "$WORK" --vocabulary "$VOCABULARY" --lengths "$LENGTH" --bf16 "$BF16"
    --pairs "${PAIRS:-3}" --steps "${STEPS:-10}" --workers "${WORKERS:-2}"
)
step() { "$PYTHON" benchmarks/step.py "${common[@]}" "$@"; }

echo "## Ours against stock"
step --models "${models[@]}" --tokens "$TOKENS" --compile "$COMPILE" --minutes "${MINUTES_GRID:-1.5}" --output "$OUTPUT/gpu-grid.json"
echo "## The best micro-batch"
step --models "${models[0]}" --micro_batches "${micro_batches[@]}" --compile "$COMPILE" --minutes "${MINUTES_MICRO:-1.5}" --output "$OUTPUT/gpu-micro.json"
echo "## What each part gives: ours against ours without it"
step --models "${models[0]}" --tokens "$TOKENS" --compile "$COMPILE" --gains --minutes "${MINUTES_GAINS:-3}" --output "$OUTPUT/gpu-gains.json"
