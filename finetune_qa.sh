#!/usr/bin/env bash
# Checkpoints -> SQuAD scores: three starting points side by side in one table: this checkpoint, a reference, random.
#
#   RUN=runs/first bash finetune_qa.sh
#   RUN=runs/first REFERENCE=roberta-base SEEDS="1 2 3" bash finetune_qa.sh
#   RUN=runs/first TASK=squad_v2 SQUAD_DATA=squad/ bash finetune_qa.sh    questions without an answer, local files
#   DRY_RUN=1 RUN=runs/first bash finetune_qa.sh      print the command and stop
#
# Stop it at any moment and run it again: what is done stays done, and a job that was cut short continues from its
# newest checkpoint. Several may share one folder. Flags after the command go to run_qa.py: --max_train_samples 500,
# --n_best_size 10, --bf16 true, any TrainingArguments.
set -euo pipefail
cd "$(dirname "$0")"
source checks.sh

# The starting points. RUN: a folder that pretrain.sh made (its newest checkpoint), a checkpoint or a hub id.
[[ -n ${RUN:-${MODEL:-}} ]] || refuse "found no RUN: name a folder that pretrain.sh made, a checkpoint or a hub id, e.g. RUN=runs/first"
export RUN=${RUN:-$MODEL}
export REFERENCE=${REFERENCE:-}                                                # a hub id or a folder to compare with
export RANDOM_INIT=${RANDOM_INIT-$([[ ! -d $RUN ]] || echo "random:$RUN")}     # RUN's architecture, fresh; empty: none
export TASK=${TASK:-squad}                                                     # squad or squad_v2
export SQUAD_DATA=${SQUAD_DATA:-} # empty: rajpurkar/squad or squad_v2; or a folder (train-v1.1.json, dev-v1.1.json)
export SEEDS=${SEEDS:-1}

# Fine-tuning. Empty: batch 32, learning rate 5e-5, 3 epochs, those of models of base size; small ones want a higher
# rate, 3e-4 or so. Several values make a grid; the table then shows the best on dev and says so.
export LEARNING_RATES=${LEARNING_RATES:-}
export BATCH_SIZES=${BATCH_SIZES:-}
export EPOCHS=${EPOCHS:-}
export SEQ_LENGTH=${SEQ_LENGTH:-384} # tokens a window: no more than the model was trained on
export DOC_STRIDE=${DOC_STRIDE:-128} # of which two windows of a context share so many

# Who does it, and where it goes.
export WORKERS=${WORKERS:-1}         # a GPU, or on the CPU
export ENGINE=${ENGINE:-processes}   # ray: the same jobs as tasks of a Ray cluster
export TOKENIZER=${TOKENIZER:-}      # for random: alone; beside checkpoints RUN's is taken
export OUTPUT_DIR=${OUTPUT_DIR:-}    # empty: the folder qa in the run's folder
export REPORT_TO=${REPORT_TO:-wandb} # or tensorboard, trackio, mlflow, none. W&B without a key is offline
export WANDB_PROJECT=${WANDB_PROJECT:-encoder-recipe}

require_name RUN TASK REPORT_TO
require_list "require_whole 0" SEEDS
require_whole 1 SEQ_LENGTH WORKERS
require_whole 0 DOC_STRIDE
[[ -z $REFERENCE ]] || require_name REFERENCE
[[ -z $RANDOM_INIT ]] || require_name RANDOM_INIT
[[ -z $SQUAD_DATA ]] || require_name SQUAD_DATA
[[ -z $LEARNING_RATES ]] || require_list require_number LEARNING_RATES
[[ -z $BATCH_SIZES ]] || require_list "require_whole 1" BATCH_SIZES
[[ -z $EPOCHS ]] || require_number EPOCHS
[[ -z $TOKENIZER ]] || require_name TOKENIZER
[[ -z $OUTPUT_DIR ]] || require_name OUTPUT_DIR
require_one_of TASK squad squad_v2
require_one_of ENGINE processes ray

source environment.sh

read -ra seeds <<<"$SEEDS"
runs=("$RUN")
[[ -z $REFERENCE ]] || runs+=("$REFERENCE")
[[ -z $RANDOM_INIT ]] || runs+=("$RANDOM_INIT")
args=(--runs "${runs[@]}" --newest true --tasks "$TASK" --seeds "${seeds[@]}")

# shellcheck disable=SC2206 # lists of numbers: they are meant to split
[[ -z $LEARNING_RATES ]] || args+=(--learning_rates $LEARNING_RATES)
# shellcheck disable=SC2206
[[ -z $BATCH_SIZES ]] || args+=(--batch_sizes $BATCH_SIZES)
args+=(--workers "$WORKERS" --engine "$ENGINE" --report_to "$REPORT_TO")
[[ -z $OUTPUT_DIR ]] || args+=(--results_dir "$OUTPUT_DIR")

args+=(--max_seq_length "$SEQ_LENGTH" --doc_stride "$DOC_STRIDE")
[[ -z $SQUAD_DATA ]] || args+=(--dataset_name "$SQUAD_DATA")
[[ -z $EPOCHS ]] || args+=(--num_train_epochs "$EPOCHS")
[[ -z $TOKENIZER ]] || args+=(--tokenizer_name "$TOKENIZER")

if [[ ${DRY_RUN:-0} != 0 ]]; then
    exec "$PYTHON" -m recipe.system.secrets "$PYTHON" -m recipe.sweep "${args[@]}" "$@"
fi
exec "$PYTHON" -m recipe.sweep "${args[@]}" "$@"
