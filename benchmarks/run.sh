#!/usr/bin/env bash
# Every benchmark of pre-training on this machine, one table a program, JSON beside it: 18 minutes on two idle cores.
#
#   bash benchmarks/run.sh                              the built-in corpus, results in data/benchmarks/results
#   DATASET=my_corpus/ MEGABYTES="10 50 150" bash benchmarks/run.sh
#   ONLY="loader start" bash benchmarks/run.sh          some of step, loader, prepare, start
#
# glue.py needs a checkpoint and the task's files: MODEL=runs/NAME/checkpoint-N GLUE_DATA=glue/ ONLY=glue bash benchmarks/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."

export DATASET=${DATASET:-docstrings}           # a file, a folder or a hub id
export WORK=${WORK:-data/benchmarks}            # keeps the tokenizer of 50,265 tokens and the prepared tokens
export OUTPUT=${OUTPUT:-$WORK/results}          # the JSON files
export MEGABYTES=${MEGABYTES:-3 6 12}          # of text, for prepare.py; the built-in corpus has some 12
export ONLY=${ONLY:-step loader prepare start}

source environment.sh
mkdir -p "$OUTPUT"

read -ra megabytes <<<"$MEGABYTES"
common=(--dataset "$DATASET" --work "$WORK")
for name in $ONLY; do
    args=("benchmarks/$name.py" --output "$OUTPUT/$name.json")
    case $name in
        step) args+=("${common[@]}" --steps 2) ;;
        loader | start) args+=("${common[@]}") ;;
        prepare) args+=("${common[@]}" --megabytes "${megabytes[@]}") ;;
        glue)
            args+=(--model "${MODEL:?set it to a checkpoint folder}")
            args+=(--glue_data "${GLUE_DATA:?set it to the folder of the GLUE files}" -- --max_train_samples 6400)
            ;;
        *) echo "found $name in ONLY, expected some of step loader prepare start glue" >&2 && exit 2 ;;
    esac
    "$PYTHON" "${args[@]}"
    echo
done
