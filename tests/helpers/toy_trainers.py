"""Trainers of toy models: made, watched, killed and resumed."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch
from toy import config_settings, next_tokens_of, sequences_of
from transformers import AutoConfig, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from recipe.data.tokenizer import block_ends
from recipe.model.checkpoints import newest_complete
from recipe.model.config import make_causal, set_dropout
from recipe.model.heads import use_masked_only_head, use_next_token_head
from recipe.model.loading import build_model
from recipe.system.manifest import MANIFEST, manifest_of
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.callbacks import JsonLog, Progress, RankSeed
from recipe.train.stages import stages_of
from recipe.train.trainer import PretrainTrainer

CHANGES = {"short_seq_length": 16, "short_seq_share": 0.6, "batch_warmup_start": 8, "batch_warmup_steps": 3}
LENGTH = 32  # tokens a toy sequence


class Recorder(TrainerCallback):
    """The gradient norm of each step as logged, and an optional call at a step's end."""

    def __init__(self, at_step=None, action=None):
        self.logs, self.at_step, self.action = [], at_step, action

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append({"step": state.global_step, **logs})

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.at_step:
            self.action(control)


class Killed(BaseException):
    pass


def kill(control):
    raise Killed


def make_trainer(
    folder,
    tokenizer,
    documents,
    *,
    family="roberta",
    micro=8,
    accumulation=1,
    steps=6,
    dropout=0.0,
    callbacks=(),
    masking=None,
    causal=False,
    **more,
):
    config = AutoConfig.for_model(**config_settings(family))
    set_dropout(config, dropout)
    torch.manual_seed(0)
    if causal:
        config = make_causal(config, "toy")
    model = (use_next_token_head if causal else use_masked_only_head)(build_model(config))
    settings = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "disable_tqdm": True,
        "do_train": True,
        "use_cpu": True,
    }
    args = PretrainArguments(**(settings | more))
    end = block_ends(tokenizer)[1] if args.document_attention else None
    own = partial(next_tokens_of if causal else sequences_of, document_end=end)
    toy = own if causal else partial(own, **(masking or {}))
    train = toy(tokenizer, documents)
    short = args.short_seq_length
    trainer = PretrainTrainer(
        model=model,
        args=args,
        train_dataset=train,
        phase_datasets=[toy(tokenizer, documents, length=short), train] if short else [],
        stages=stages_of_toy(args),
        eval_dataset=own(tokenizer, documents[:30], order_seed=None),
        processing_class=tokenizer,
        callbacks=[
            Progress(stages_of_toy(args), len(train) * LENGTH), RankSeed(), JsonLog(folder / "log.jsonl"), *callbacks
        ],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def stages_of_toy(args):
    return stages_of(
        args.max_steps, LENGTH, sequences_per_step(args), short_length=args.short_seq_length,
        short_share=args.short_seq_share, warmup_start=args.batch_warmup_start, warmup_steps=args.batch_warmup_steps,
    )  # fmt: skip


def weights_and_optimizer(folder: Path) -> str:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes())
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    for state in optimizer["state"].values():
        for value in state.values():
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def losses_and_norms(folder, tokenizer, documents, **cut):
    recorder = Recorder()
    make_trainer(folder, tokenizer, documents, callbacks=[recorder], save_strategy="no", **cut).train()
    return [(log["loss"], log["grad_norm"]) for log in recorder.logs if "loss" in log]


def resume_point(folder):
    checkpoint = newest_complete(folder)
    return str(checkpoint) if checkpoint else None


def train_and_kill(folder, tokenizer, documents, at_steps, **options) -> None:
    """Trains to the end, killed after each of `at_steps` and resumed."""
    for at_step in at_steps:
        trainer = make_trainer(folder, tokenizer, documents, callbacks=[Recorder(at_step, kill)], **options)
        with pytest.raises(Killed):
            trainer.train(resume_from_checkpoint=resume_point(folder))
    make_trainer(folder, tokenizer, documents, **options).train(resume_from_checkpoint=resume_point(folder))


def forge(folder, ranks=1):
    """Makes the manifest say that all is as it should be."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST}
    (folder / MANIFEST).write_text(manifest_of(files, ranks))
