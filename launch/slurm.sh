#!/usr/bin/env bash
# pretrain.sh, finetune_glue.sh or finetune_qa.sh as a SLURM job that comes back by itself: preempted, out of time or on a dead node.
#
#   NODES=4 GPUS_PER_NODE=8 bash launch/slurm.sh pretrain.sh                   one run on 32 GPUs
#   ARRAY=8 GPUS_PER_NODE=1 RUN=$PWD/runs/first bash launch/slurm.sh finetune_glue.sh   eight tasks share one sweep
#   DRY_RUN=1 NODES=4 bash launch/slurm.sh pretrain.sh                         prints the sbatch command
#
# Exports and flags are those of the script itself. Partition, account, time limit and the like are sbatch's own
# variables: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS, SBATCH_TIMELIMIT, SBATCH_MEM_PER_NODE ...
# The repository, its packages, OUTPUT_DIR and the data lie on a disk that all nodes share.
set -euo pipefail

export NODES=${NODES:-1}
export GPUS_PER_NODE=${GPUS_PER_NODE:-0}                                             # 0: on CPUs
export CPUS_PER_NODE=${CPUS_PER_NODE:-}                                              # empty: 8 per GPU, or 1
export ARRAY=${ARRAY:-}                 # that many tasks of the same command, one node each
export STOP_SECONDS=${STOP_SECONDS:-300} # before the time limit: what a step, an evaluation and a save take together
export MAX_RESTARTS=${MAX_RESTARTS:-1000}
export LOGS=${LOGS:-runs/slurm}         # a file a job and one a node; with several ranks on a node, one a rank, too

in_the_job() { # runs on the first node, in the repository
    local first name=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} code=0
    name=${name:-$SLURM_JOB_ID}
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_ADDR=$(scontrol show node "$first" --oneliner | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
    export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) NNODES=$SLURM_JOB_NUM_NODES
    export LOG=$LOGS/$name-node PET_TEE=3 # torchrun's: a rank's output goes to its file, and to the node's

    trap : TERM USR1 # what stops the ranks must not stop this shell: srun ends when they have saved
    # shellcheck disable=SC2016 # for the shell on each node
    srun --nodes="$NNODES" --ntasks="$NNODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" \
        --kill-on-bad-exit=0 --wait=120 --open-mode=append --output="$LOG%n.log" \
        bash -c 'NODE_RANK=$SLURM_NODEID PET_LOG_DIR=$LOG$SLURM_NODEID exec bash "$@"' bash "$@" || code=$?
    echo "$(date +%FT%T) ended with $code (restarts so far: ${SLURM_RESTART_COUNT:-0})"

    # 75: stopped after saving; 143: stopped before there was anything to save. Both mean: run the same command again.
    if [[ $code == 75 || $code == 143 ]] && scontrol show job "$name" --oneliner | grep -q 'JobState=RUNNING'; then
        if ((${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS)); then
            echo "back into the queue"
            scontrol requeue "$name"
            sleep 600 # SLURM ends this shell; leaving first would end the job
        fi
        echo "MAX_RESTARTS=$MAX_RESTARTS is reached: run the same command again to continue"
    fi
    exit "$code"
}

if [[ ${1:-} == --in-the-job ]]; then
    shift
    in_the_job "$@"
fi

cd "$(dirname "$0")/.."
source checks.sh
script=${1:-}
[[ -n $script ]] || refuse "found no script to run: name pretrain.sh, finetune_glue.sh or finetune_qa.sh, then its flags"
[[ -f $script ]] || refuse "found no $script here: name pretrain.sh, finetune_glue.sh or finetune_qa.sh first, then its flags"
require_whole 1 NODES
require_whole 0 GPUS_PER_NODE STOP_SECONDS MAX_RESTARTS
CPUS_PER_NODE=${CPUS_PER_NODE:-$((GPUS_PER_NODE > 0 ? 8 * GPUS_PER_NODE : 1))}
require_whole 1 CPUS_PER_NODE
require_name LOGS
[[ -z $ARRAY ]] || require_whole 1 ARRAY
[[ -z $ARRAY || $NODES == 1 ]] || refuse "found ARRAY=$ARRAY with NODES=$NODES: an array's tasks have one node each"

submit=(
    sbatch --job-name "$(basename "${script%.sh}")"
    --nodes "$NODES" --ntasks-per-node 1 --cpus-per-task "$CPUS_PER_NODE"
    --requeue --signal "TERM@$STOP_SECONDS" # to every rank, not to the batch shell
    --chdir "$PWD" --open-mode append
)
if [[ -n $ARRAY ]]; then
    submit+=(--array "0-$((ARRAY - 1))" --output "$LOGS/%A_%a.log")
else
    submit+=(--output "$LOGS/%j.log")
fi
((GPUS_PER_NODE == 0)) || submit+=(--gpus-per-node "$GPUS_PER_NODE")

if [[ -n ${DRY_RUN:-} ]]; then
    exec "${PYTHON:-python3}" -m recipe.system.secrets "${submit[@]}" launch/slurm.sh --in-the-job "$@"
fi
command -v sbatch >/dev/null || refuse "found no sbatch: run this on a login node of the cluster (Debian: apt-get install slurm-wlm)"
mkdir -p "$LOGS"
exec "${submit[@]}" launch/slurm.sh --in-the-job "$@"
