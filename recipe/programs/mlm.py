"""One masked pre-training, from text to checkpoints."""

from dataclasses import asdict
from functools import partial

from recipe.data.arguments import DataArguments
from recipe.data.blocks import Blocks, OrderedBlocks
from recipe.data.tokenizer import block_ends
from recipe.evaluate.summary import report
from recipe.model.arguments import ModelArguments
from recipe.model.documents import require_masks
from recipe.model.heads import use_masked_only_head
from recipe.objective.arguments import ObjectiveArguments
from recipe.objective.causal import NextTokensOfMasked
from recipe.objective.hybrid import HybridSequences
from recipe.objective.masked_sequences import MaskedSequences
from recipe.objective.masking import Masking
from recipe.objective.span_masking import Spans
from recipe.objective.words import word_boundaries
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments
from recipe.train.maskable import require_maskable
from recipe.train.phases import HYBRID_EVERY, phases_of
from recipe.train.pretraining import pretrain
from recipe.train.rotary import require_rotary_positions
from recipe.train.sequences import Sequences, sequences_of
from recipe.train.setup import begin, config_of, model_of, prepare_text, with_objective
from recipe.train.signature import resume_signature
from recipe.train.stages import MaskingRateDecay

EVAL_MASK_SEED = 1 << 32  # larger than any training seed: all runs share one set of evaluation masks


def run(model_args: ModelArguments, data: DataArguments, objective: ObjectiveArguments, args: PretrainArguments) -> int:
    """Trains and evaluates as the flags ask; returns the exit code. Raises UserError for mistakes."""
    say = begin(args, data)

    # From text to blocks. What can be known before step 1 is checked on the way.
    name, config = config_of(model_args)
    config = with_objective(config, name, False, model_args, args, say)
    if args.document_attention:
        require_masks(config, "--document_attention")
    phases = phases_of(args, objective.objective_schedule)
    require_rotary_positions(config, phases)
    if any(phase.objective in ("clm", "hybrid") for phase in phases):
        require_masks(config, "a causal phase")
    tokenizer, sources = prepare_text(model_args, data, name, config, say, phases=phases)
    sequences = masked_sequences(sources, tokenizer, data, objective, args, phases)
    require_maskable(sequences)

    model = use_masked_only_head(model_of(model_args, config, args.seed, say, tokenizer))
    about = {"objective": "mlm", **asdict(objective)}
    signature = resume_signature(config, data, args, sources, sequences, tokenizer, about, bool(phases))
    fresh = not model_args.model_name_or_path
    return pretrain(model, tokenizer, sources, sequences, args, signature, report, say, fresh)


def masked_sequences(sources, tokenizer, data, objective, args, phases=()) -> Sequences:
    """Training and evaluation data: blocks with begin and end token, and their masks."""
    if args.max_hours and objective.mlm_probability_end is not None:
        raise UserError(
            "found --mlm_probability_end beside --max_hours: the masking rate decays by steps, whose number is not "
            "known in advance; pass --max_steps in place of the latter"
        )
    common = {
        "vocab_size": len(tokenizer),
        "mask_id": tokenizer.mask_token_id,
        "pad_id": tokenizer.pad_token_id,
        "special_ids": tuple(tokenizer.all_special_ids),
        "mask_replace_prob": objective.mask_replace_prob,
        "random_replace_prob": objective.random_replace_prob,
        "words": word_boundaries(tokenizer) if objective.whole_word_mask else None,
        "spans": Spans(objective.span_p, objective.span_max_length) if objective.span_masking else None,
    }
    document_end = block_ends(tokenizer)[1] if args.document_attention else None

    def cut(tokens, length) -> Blocks:
        return Blocks(tokens, length, block_ends(tokenizer), tokenizer.pad_token_id)

    def inputs(blocks, stages, phase, **order) -> OrderedBlocks:
        order |= {"document_end": document_end}
        if phase is None:
            masking = Masking(seed=EVAL_MASK_SEED, mlm_probability=objective.final_mlm_probability, **common)
            return MaskedSequences(blocks, masking, **order)
        if phase.objective == "clm":
            return NextTokensOfMasked(blocks, **order)
        own = phase.mlm_probability or phase.mlm_probability_end  # else the flags' decay, over the whole run
        first, last = (phase.first, phase.last) if own else (0, None)
        begin = phase.mlm_probability or objective.mlm_probability
        end = phase.mlm_probability_end or (begin if own else objective.final_mlm_probability)
        decay = MaskingRateDecay(begin, end, stages, blocks.length, first, last) if end != begin else None
        masking = Masking(seed=args.seed, mlm_probability=max(begin, end), rate_of=decay, **common)
        masked = MaskedSequences(blocks, masking, **order)
        if phase.objective != "hybrid":
            return masked
        steps = partial(stages.steps_of, length=blocks.length)
        return HybridSequences(masked, NextTokensOfMasked(blocks, **order), HYBRID_EVERY, steps)

    return sequences_of(sources, data, args, phases, cut, inputs)
