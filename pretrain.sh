#!/usr/bin/env bash
# Pre-trains an encoder: text in, checkpoints out. Run it again and it continues, or says that it is done.
#
#   bash pretrain.sh                                    the demonstration: five minutes on two cores
#   MAX_STEPS=100 bash pretrain.sh                      a short try
#   MODEL=configs/bert_tiny.json bash pretrain.sh       another model: bert, roberta or modernbert (or edit the lines below)
#   DATASET=my_text/ HOURS=2 bash pretrain.sh           your text: a model and settings that fit it and two hours of training
#   DATASET=my.txt RECIPE=demo bash pretrain.sh         your text, by the demonstration's settings
#   MODEL=configs/roberta_medium.json TOKENIZER=roberta-base DATASET=JackBAI/bert_pretrain_datasets bash pretrain.sh
#   OBJECTIVE=clm bash pretrain.sh                      a causal model of the same config (run_clm.py)
#   DRY_RUN=1 bash pretrain.sh                          prints the command, without secrets, and the plan of the run: steps,
#                                                       epochs, time, memory, disk; DRY_RUN=json: the plan for programs;
#                                                       DRY_RUN=command: the command alone
#
# What follows the script's name goes to run_mlm.py or run_clm.py as it is, and wins: bash pretrain.sh --mlm_probability 0.3
set -euo pipefail
cd "$(dirname "$0")"
source checks.sh
refuse_empty MODEL TOKENIZER DATASET PREPARED_DIR OUTPUT_DIR RUN_NAME

model_given=${MODEL:+yes}
export MODEL=${MODEL:-configs/roberta_tiny.json} # a config of configs/ (from scratch), or a checkpoint to continue from
[[ $MODEL == *.json ]] && own=train || own=$MODEL
export TOKENIZER=${TOKENIZER:-$own}              # a hub id, a folder, or train: one of VOCAB_SIZE tokens on the corpus
export DATASET=${DATASET:-docstrings}            # a file, folder, glob, .tar.gz, s3://... or hub id; docstrings: text anywhere;
                                                 # a mixture: "wiki/=2 books/=1"
export PREPARED_DIR=${PREPARED_DIR:-data}        # where its tokens are kept, or lie ready
export OBJECTIVE=${OBJECTIVE:-mlm}                # mlm: fill blanks; clm: predict the next token
HOURS=${HOURS:-${MAX_HOURS:-}}                   # train for so many hours in place of MAX_STEPS: the schedule ends with them
SEED=${SEED:-42}
corpus=${DATASET%%#sha256=*} # as the run is named after it
if [[ $corpus == *://* ]]; then # neither a signature nor a password in the run's name
    corpus=${corpus%%\?*}
    corpus=${corpus%/}
    corpus=${corpus##*/}
    corpus=${corpus##*@}
fi
mixture='' # of sources with weights: wiki+books
if [[ ! -e $DATASET && $DATASET =~ =[0-9.]+[[:space:]].*=[0-9.]+$ ]]; then
    mixture=yes
    corpus=$(sed -E "s/[\"']//g; s#/*=[0-9.]+([[:space:]]+|\$)#\n#g" <<<"$DATASET" | sed -E 's#.*/##; s/ /-/g; /^$/d' | paste -sd+ -)
fi
if [[ -z ${RECIPE:-} ]]; then # auto is for text of your own, where neither a recipe nor steps are given
    RECIPE=roberta
    [[ $DATASET != docstrings ]] || RECIPE=demo
    [[ ( ! -e $DATASET && -z $mixture ) || -n ${MAX_STEPS:-} || ${NNODES:-1} != 1 ]] || RECIPE=auto
fi
export RECIPE

# Devices: one process for each GPU, with bf16 and ZeRO-2 where there are GPUs for it. Without one, a process for each
# core: two processes of one thread are 1.75 times as fast as one, two threads 1.3 times.
gpus=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+\.[0-9]+$' | sort -n || true)
visible=$([[ -n ${CUDA_VISIBLE_DEVICES+set} ]] && tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" || echo "$gpus")
count=$([[ -n $gpus ]] && grep -c '^[^-]' <<<"$visible" || echo 0)
count=${count%%$'\n'*} # grep -c prints its 0 and fails, too
cores=0
((count > 0)) || cores=$(count_cores)

case $RECIPE in
    auto) # chosen by recipe/train/auto.py, which says why; what is set already stays
        [[ ${NNODES:-1} == 1 ]] || refuse "found RECIPE=auto and NNODES=$NNODES: it measures one machine; set RECIPE=roberta or demo"
        [[ -z $HOURS ]] || require_number HOURS
        source environment.sh
        auto=(--dataset_name "$DATASET" --prepared_dir "$PREPARED_DIR" --hours "${HOURS:-1}")
        auto+=(--processes "${NPROC_PER_NODE:-$((count > 0 ? count : cores))}")
        [[ -z $model_given && $MODEL == configs/roberta_tiny.json ]] || auto+=(--model "$MODEL")
        RUN_NAME=${RUN_NAME:-auto-$(basename -- "${corpus%/}")-${HOURS:-1}h-seed$SEED}
        [[ " ${auto[*]} " == *" --model "* ]] || unset MODEL
        chosen=$("$PYTHON" -m recipe.train.auto "${auto[@]}" --output_dir "${OUTPUT_DIR:-runs/$RUN_NAME}" "$@") || exit $?
        eval "$(grep -E '^[A-Z_]+=' <<<"$chosen")"
        export MODEL
        HOURS=${HOURS:-$MAX_HOURS}
        ;;
    demo) #   5 M tokens, a laptop: 32 sequences x 128 tokens = 4,096 tokens per step
        : "${SEQ_LENGTH:=128}" "${GLOBAL_BATCH_SIZE:=32}"
        : "${MAX_STEPS:=1200}" "${PEAK_LR:=3e-3}"
        : "${SAVE_STEPS:=150}" "${EVAL_STEPS:=150}" "${LOGGING_STEPS:=25}" "${EVAL_BLOCKS:=400}"
        : "${DROPOUT:=0}" # a pass or two over the text cannot be learned by heart
        warmup=(200 1200) # steps of warm-up, of a run of so many steps; a shorter run has the same share
        ;;
    roberta) # 126 G tokens, a node of GPUs: 8,192 sequences x 512 tokens = 4.2 M tokens per step
        : "${SEQ_LENGTH:=512}" "${GLOBAL_BATCH_SIZE:=8192}"
        : "${MAX_STEPS:=30000}" "${PEAK_LR:=1e-3}"
        : "${SAVE_STEPS:=500}" "${EVAL_STEPS:=500}" "${LOGGING_STEPS:=10}" "${EVAL_BLOCKS:=8192}"
        : "${DROPOUT:=}" # the config's, 0.1
        warmup=(1800 30000)
        ;;
    *) require_one_of RECIPE auto demo roberta ;;
esac
require_one_of OBJECTIVE mlm clm
script=run_$OBJECTIVE.py
ADAM_BETA1=${ADAM_BETA1:-0.9} ADAM_BETA2=${ADAM_BETA2:-0.98} ADAM_EPSILON=${ADAM_EPSILON:-1e-6}
WEIGHT_DECAY=${WEIGHT_DECAY:-0.01} # none on biases and LayerNorm
SAVE_AT=${SAVE_AT:-} # further steps to save after, 250 500 1000; --save_total_limit neither counts nor deletes these
MASK_RATE=${MASK_RATE:-} # share of the tokens that are masked; empty: 0.15
MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE:-auto} # sequences that a device takes at a time; auto: as many as fit
VOCAB_SIZE=${VOCAB_SIZE:-8192} # of TOKENIZER=train
kind=$([[ $OBJECTIVE == mlm ]] || echo "$OBJECTIVE-")
RUN_NAME=${RUN_NAME:-$kind$(basename -- "${MODEL%.json}")-$(basename -- "${corpus%/}")-L$SEQ_LENGTH-B$GLOBAL_BATCH_SIZE-lr$PEAK_LR-seed$SEED}
OUTPUT_DIR=${OUTPUT_DIR:-runs/$RUN_NAME}
WANDB_NAME=${WANDB_NAME:-$RUN_NAME} WANDB_PROJECT=${WANDB_PROJECT:-encoder-recipe}
REPORT_TO=${REPORT_TO:-none} # or tensorboard, trackio, mlflow, wandb (online with a key, offline without one)
export WANDB_NAME WANDB_PROJECT

require_name MODEL TOKENIZER DATASET PREPARED_DIR RUN_NAME OUTPUT_DIR WANDB_NAME REPORT_TO
require_whole 1 SEQ_LENGTH GLOBAL_BATCH_SIZE MAX_STEPS EVAL_BLOCKS VOCAB_SIZE
require_whole 0 SEED
((MAX_STEPS < ${warmup[1]:-0})) && share=$((MAX_STEPS * warmup[0] / warmup[1])) || share=${warmup[0]:-}
WARMUP_STEPS=${WARMUP_STEPS:-$share}
require_number WARMUP_STEPS SAVE_STEPS EVAL_STEPS LOGGING_STEPS
require_number PEAK_LR ADAM_BETA1 ADAM_BETA2 ADAM_EPSILON WEIGHT_DECAY
[[ -z $DROPOUT ]] || require_number DROPOUT
[[ -z $MASK_RATE ]] || require_number MASK_RATE
[[ -z $HOURS ]] || require_number HOURS
[[ $MICRO_BATCH_SIZE == auto ]] || require_whole 1 MICRO_BATCH_SIZE
[[ -z $SAVE_AT ]] || require_list "require_whole 1" SAVE_AT

if ((cores > 0)); then # as many processes as divide the batch and have at least eight sequences each
    for ((processes = cores; processes > 1; processes--)); do
        ((GLOBAL_BATCH_SIZE % processes || GLOBAL_BATCH_SIZE / processes < 8)) || break
    done
    NPROC_PER_NODE=${NPROC_PER_NODE:-$processes}
    require_whole 1 NPROC_PER_NODE
    threads=$((cores / NPROC_PER_NODE > 0 ? cores / NPROC_PER_NODE : 1))
    ((NPROC_PER_NODE == 1)) || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
fi
NPROC_PER_NODE=${NPROC_PER_NODE:-$count}
NNODES=${NNODES:-1} MASTER_PORT=${MASTER_PORT:-29500}
require_whole 1 NPROC_PER_NODE NNODES MASTER_PORT
if ((NNODES > 1)); then
    [[ -n ${MASTER_ADDR:-} ]] || refuse "found NNODES=$NNODES and no MASTER_ADDR: set it to the address of the first node"
    [[ -n ${NODE_RANK:-} ]] || refuse "found NNODES=$NNODES and no NODE_RANK: set it to the number of this node, from 0"
    require_name MASTER_ADDR
    require_whole 0 NODE_RANK
    ((NODE_RANK < NNODES)) || refuse "found NODE_RANK=$NODE_RANK and NNODES=$NNODES, expected nodes numbered from 0"
fi
capability=${gpus%%.*} # of the oldest GPU: 8 is Ampere, the first with bf16
precision=()
((count > 0 && ${capability:-0} >= 8)) && precision=(--bf16)
((cores > 0)) && grep -qE '^flags.* (avx512_bf16|amx_bf16)( |$)' /proc/cpuinfo 2>/dev/null && precision=(--bf16 --use_cpu)
DS_CONFIG=${DS_CONFIG-$( ((count > 0 && ${#precision[@]} > 0)) && echo ds_config/zero2_bf16.json || true)} # empty: plain DDP
[[ -z $DS_CONFIG ]] || require_name DS_CONFIG
[[ -z ${DATASET_CONFIG:-} ]] || require_name DATASET_CONFIG

case $MODEL in
    *.json) model=(--config_name "$MODEL" ${DROPOUT:+--dropout "$DROPOUT"}) ;;
    *) model=(--model_name_or_path "$MODEL") ;;
esac

until=(--max_steps "$MAX_STEPS")
[[ -z $HOURS ]] || until=(--max_hours "$HOURS")
[[ $RECIPE != auto ]] || until=(--max_hours "$HOURS" --max_steps "$MAX_STEPS")

source environment.sh

if [[ $MICRO_BATCH_SIZE == auto ]]; then # gradient accumulation makes the batch exact whatever it is
    share=$((GLOBAL_BATCH_SIZE / (NPROC_PER_NODE * NNODES) > 0 ? GLOBAL_BATCH_SIZE / (NPROC_PER_NODE * NNODES) : 1))
    if ((cores > 0)); then
        for ((MICRO_BATCH_SIZE = 32; share % MICRO_BATCH_SIZE; MICRO_BATCH_SIZE--)); do :; done
    else
        fit=("$MODEL" "$SEQ_LENGTH" "$share" --processes $((NPROC_PER_NODE * NNODES)) --vocab_size "$VOCAB_SIZE" "${precision[@]}")
        MICRO_BATCH_SIZE=$("$PYTHON" -m recipe.train.micro_batch "${fit[@]}" ${DS_CONFIG:+--deepspeed "$DS_CONFIG"}) || exit $?
        MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE##*$'\n'} # the last line
    fi
fi

args=(
    "${model[@]}"
    --tokenizer_name "$TOKENIZER" --vocab_size "$VOCAB_SIZE"
    --dataset_name "$DATASET" ${DATASET_CONFIG:+--dataset_config_name "$DATASET_CONFIG"}
    --prepared_dir "$PREPARED_DIR" --output_dir "$OUTPUT_DIR" --do_train --do_eval

    --max_seq_length "$SEQ_LENGTH" --seed "$SEED"
    --global_batch_size "$GLOBAL_BATCH_SIZE" # means the same on any number of devices: accumulation is derived
    --per_device_train_batch_size "$MICRO_BATCH_SIZE" --per_device_eval_batch_size "$MICRO_BATCH_SIZE"

    ${MASK_RATE:+--mlm_probability "$MASK_RATE"}
    "${until[@]}" --warmup_steps "$WARMUP_STEPS" --lr_scheduler_type linear --learning_rate "$PEAK_LR"
    --adam_beta1 "$ADAM_BETA1" --adam_beta2 "$ADAM_BETA2" --adam_epsilon "$ADAM_EPSILON" --weight_decay "$WEIGHT_DECAY"
    "${precision[@]}" ${DS_CONFIG:+--deepspeed "$DS_CONFIG"}

    --eval_strategy steps --eval_steps "$EVAL_STEPS" --max_eval_samples "$EVAL_BLOCKS"
    --save_steps "$SAVE_STEPS" ${SAVE_AT:+--save_at $SAVE_AT} --logging_steps "$LOGGING_STEPS"
    --report_to "$REPORT_TO" --run_name "$WANDB_NAME"
)

start=("$PYTHON")
if ((NNODES * NPROC_PER_NODE > 1)); then
    start=("$PYTHON" -m recipe.launch --nproc_per_node "$NPROC_PER_NODE" --nnodes "$NNODES")
    if ((NNODES > 1)); then
        start+=(--node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT")
    else
        start+=(--standalone)
    fi
elif [[ -n $DS_CONFIG ]]; then # DeepSpeed expects these for a single process, too
    export RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + RANDOM % 20000))
fi

case ${DRY_RUN:-} in
    "") ;;
    json) args+=(--dry_run json) ;;
    *)
        "$PYTHON" -m recipe.system.secrets "${start[@]}" "$script" "${args[@]}" "$@"
        [[ $DRY_RUN != command ]] || exit 0
        ((NNODES == 1)) || refuse "the plan of a run on several nodes is made by all of them together: set DRY_RUN=command"
        args+=(--dry_run plan)
        ;;
esac
exec "${start[@]}" "$script" "${args[@]}" "$@"
