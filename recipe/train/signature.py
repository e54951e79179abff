"""The resume signature of a pre-training run: the settings that determine its weights."""

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from recipe.data.arguments import DataArguments
from recipe.data.sources import Sources
from recipe.data.tokenizer import fingerprint
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.sequences import Sequences

# The fields of PretrainArguments that are part of it.
SETTINGS = (
    "seed data_seed max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay "
    "adam_beta1 adam_beta2 adam_epsilon optim_args max_grad_norm bf16 fp16 "
    "short_seq_length short_seq_share batch_warmup_start batch_warmup_steps max_hours document_attention "
    "ema_decay"
)


def resume_signature(
    config: PreTrainedConfig,
    data: DataArguments,
    args: PretrainArguments,
    sources: Sources,
    sequences: Sequences,
    tokenizer: PreTrainedTokenizerFast,
    objective: dict,
    asked_for_phases: bool = False,
) -> dict:
    """The settings that must not change when a run is resumed, as a JSON object; `objective` holds those of its
    objective. Run folder, logging, micro-batch size and world size are not part of it."""
    return {
        **objective,
        "model": {k: v for k, v in config.to_dict().items() if k not in ("transformers_version", "dtype")},
        "data": sources.fingerprint,
        "tokenizer": fingerprint(tokenizer),
        "max_seq_length": data.max_seq_length,
        "max_train_samples": data.max_train_samples,
        "global_batch_size": sequences_per_step(args),
        **{name: getattr(args, name) for name in SETTINGS.split()},
        "optim": str(getattr(args.optim, "value", args.optim)),
        "mixture": data.weights or None,
        "mixture_temperature": data.mixture_temperature,
        "phases": [phase.described() for phase in sequences.phases] if asked_for_phases else None,
    }
