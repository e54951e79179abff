#!/usr/bin/env bash
# Checkpoints -> GLUE scores: every checkpoint of a run x task x seed, as a table, a curve and a W&B chart.
#
#   RUN=runs/first bash finetune_glue.sh
#   RUN="runs/first random:configs/roberta_tiny.json" SEEDS="1 2 3" bash finetune_glue.sh   a baseline beside it
#   RUN=runs/first WATCH=1 bash finetune_glue.sh      follow a pre-training that still runs
#   RUN="runs/first random:runs/first" TASKS=blimp bash finetune_glue.sh   minimal pairs, without training
#   RUN="runs/first random:runs/first" TASKS=wnut17 LEARNING_RATES=5e-4 bash finetune_glue.sh    named entities
#   RUN=runs/first TASKS="rte boolq.yaml" bash finetune_glue.sh    a task of your own, see docs/finetuning.md
#   DRY_RUN=1 RUN=runs/first bash finetune_glue.sh    print the command and stop
#
# Stop it at any moment and run it again: what is done stays done. Several may share one folder. Flags after the
# command go to run_glue.py: --max_train_samples 500, --num_train_epochs 1, --bf16 true, any TrainingArguments.
set -euo pipefail
cd "$(dirname "$0")"
source checks.sh

# What to evaluate: run folders, checkpoints, hub ids, random:CONFIG.json; several are separated by spaces.
[[ -n ${RUN:-} ]] || refuse "found no RUN: name a folder that pretrain.sh made, a checkpoint or a hub id, e.g. RUN=runs/first"
export RUN
export TASKS=${TASKS:-cola sst2 mrpc stsb qqp mnli qnli rte}
export SEEDS=${SEEDS:-1}
export GLUE_DATA=${GLUE_DATA:-nyu-mll/glue} # or a folder: the official files (CoLA/train.tsv ...), or a copy of the hub's
export BLIMP_DATA=${BLIMP_DATA:-nyu-mll/blimp} # of TASKS=blimp: a hub id, or a folder with files of minimal pairs
export NER_DATA=${NER_DATA:-} # of TASKS=wnut17: empty, leondz/wnut_17; or a folder with files for training, dev and test

# Fine-tuning. Empty: each task's own settings (the table in recipe/finetune/glue/tasks.py). Several values make a grid; the table
# then shows the best on dev and says so.
export LEARNING_RATES=${LEARNING_RATES:-}
export BATCH_SIZES=${BATCH_SIZES:-}
export EPOCHS=${EPOCHS:-}
export MNLI_INIT=${MNLI_INIT:-0} # 1: RTE, MRPC and STS-B start from the MNLI model of the same checkpoint and seed

# Who does it, and where it goes.
export WORKERS=${WORKERS:-1}             # a GPU, or on the CPU
export ENGINE=${ENGINE:-processes}       # ray: the same jobs as tasks of a Ray cluster
export WATCH=${WATCH:-0}                 # 1: until the pre-training is over and its last checkpoint evaluated
export TOKENIZER=${TOKENIZER:-}          # for random: alone; beside checkpoints theirs is taken
export OUTPUT_DIR=${OUTPUT_DIR:-}        # empty: the folder glue in the (first) run's folder
export REPORT_TO=${REPORT_TO:-wandb}     # or tensorboard, trackio, mlflow, none. W&B without a key is offline
export WANDB_PROJECT=${WANDB_PROJECT:-encoder-recipe}

require_list require_name RUN
require_list require_name TASKS
require_list "require_whole 0" SEEDS
require_name GLUE_DATA BLIMP_DATA REPORT_TO
[[ -z $NER_DATA ]] || require_name NER_DATA
[[ -z $LEARNING_RATES ]] || require_list require_number LEARNING_RATES
[[ -z $BATCH_SIZES ]] || require_list "require_whole 1" BATCH_SIZES
[[ -z $EPOCHS ]] || require_number EPOCHS
[[ -z $TOKENIZER ]] || require_name TOKENIZER
[[ -z $OUTPUT_DIR ]] || require_name OUTPUT_DIR
require_whole 1 WORKERS
require_one_of ENGINE processes ray
require_one_of MNLI_INIT 0 1
require_one_of WATCH 0 1

source environment.sh

read -ra runs <<<"$RUN"
read -ra tasks <<<"$TASKS"
read -ra seeds <<<"$SEEDS"
args=(--runs "${runs[@]}" --tasks "${tasks[@]}" --seeds "${seeds[@]}")
case $TASKS in
    [Bb][Ll][Ii][Mm][Pp]) args+=(--blimp_data "$BLIMP_DATA") ;;
    wnut17 | WNUT-17) [[ -z $NER_DATA ]] || args+=(--dataset_name "$NER_DATA") ;;
    *) args+=(--glue_data "$GLUE_DATA") ;;
esac

# shellcheck disable=SC2206 # lists of numbers: they are meant to split
[[ -z $LEARNING_RATES ]] || args+=(--learning_rates $LEARNING_RATES)
# shellcheck disable=SC2206
[[ -z $BATCH_SIZES ]] || args+=(--batch_sizes $BATCH_SIZES)
[[ -z $EPOCHS ]] || args+=(--num_train_epochs "$EPOCHS")
[[ $MNLI_INIT == 0 ]] || args+=(--mnli_init true)

args+=(--workers "$WORKERS" --engine "$ENGINE" --report_to "$REPORT_TO")
[[ $WATCH == 0 ]] || args+=(--watch true)
[[ -z $TOKENIZER ]] || args+=(--tokenizer_name "$TOKENIZER")
[[ -z $OUTPUT_DIR ]] || args+=(--results_dir "$OUTPUT_DIR")

if [[ ${DRY_RUN:-0} != 0 ]]; then
    exec "$PYTHON" -m recipe.system.secrets "$PYTHON" -m recipe.sweep "${args[@]}" "$@"
fi
exec "$PYTHON" -m recipe.sweep "${args[@]}" "$@"
