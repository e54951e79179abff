#!/usr/bin/env bash
# pretrain.sh, finetune_glue.sh or finetune_qa.sh on a Ray cluster, or on one of this machine alone.
#
#   NUM_WORKERS=2 bash launch/ray.sh pretrain.sh                        a cluster of this machine, ended with the run
#   RAY_ADDRESS=http://HEAD:8265 NUM_WORKERS=4 GPUS_PER_WORKER=8 OUTPUT_DIR=/mnt/runs/first PREPARED_DIR=/mnt/data \
#       bash launch/ray.sh pretrain.sh                                  submitted: its log and exit code come back
#   RAY_ADDRESS=http://HEAD:8265 RUN=/mnt/runs/first bash launch/ray.sh finetune_glue.sh    the sweep on all its devices
#   DRY_RUN=1 ... bash launch/ray.sh pretrain.sh                        prints what it would do
#
# Exports and flags are those of the script itself. What travels is this folder without data, checkpoints and secrets,
# and of the environment the script's own exports: keys such as WANDB_API_KEY belong in the cluster's environment.
# A worker that dies is started again with its group; the run continues from the newest checkpoint in OUTPUT_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
source checks.sh

export RAY_ADDRESS=${RAY_ADDRESS:-}         # empty: this machine; http://HOST:8265: submit; HOST:6379 or auto: from within
export NUM_WORKERS=${NUM_WORKERS:-1}        # of pre-training: machines, if a worker has all GPUs of one
export GPUS_PER_WORKER=${GPUS_PER_WORKER:-0}
export CPUS_PER_WORKER=${CPUS_PER_WORKER:-1}
export MAX_FAILURES=${MAX_FAILURES:-3}      # that many restarts of the group
require_whole 1 NUM_WORKERS
require_whole 0 GPUS_PER_WORKER CPUS_PER_WORKER MAX_FAILURES
[[ -n $RAY_ADDRESS ]] || unset RAY_ADDRESS

source environment.sh
exec "$PYTHON" -m recipe.launch.ray_train "$@"
