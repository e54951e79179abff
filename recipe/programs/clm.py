"""One causal pre-training, from text to checkpoints."""

from recipe.data.arguments import DataArguments
from recipe.data.blocks import Blocks
from recipe.data.tokenizer import block_ends
from recipe.evaluate.summary import report
from recipe.model.arguments import ModelArguments
from recipe.model.documents import require_masks
from recipe.model.heads import use_next_token_head
from recipe.objective.causal import NextTokens
from recipe.train.arguments import PretrainArguments
from recipe.train.phases import phases_of, require_causal_phases
from recipe.train.pretraining import pretrain
from recipe.train.rotary import require_rotary_positions
from recipe.train.sequences import Sequences, sequences_of
from recipe.train.setup import begin, config_of, model_of, prepare_text, with_objective
from recipe.train.signature import resume_signature


def run(model_args: ModelArguments, data: DataArguments, keep_linebreaks: bool, args: PretrainArguments) -> int:
    """Does what the flags ask; returns the exit code. Raises UserError for mistakes."""
    say = begin(args, data)

    # From text to blocks. What can be known before step 1 is checked on the way.
    name, config = config_of(model_args)
    config = with_objective(config, name, True, model_args, args, say)
    if args.document_attention:
        require_masks(config, "--document_attention")
    phases = phases_of(args)
    require_causal_phases(phases)
    require_rotary_positions(config, phases)
    tokenizer, sources = prepare_text(model_args, data, name, config, say, keep_linebreaks, phases)
    sequences = next_tokens(sources, tokenizer, data, args, phases)

    model = use_next_token_head(model_of(model_args, config, args.seed, say, tokenizer))
    signature = resume_signature(config, data, args, sources, sequences, tokenizer, {"objective": "clm"}, bool(phases))
    fresh = not model_args.model_name_or_path
    return pretrain(model, tokenizer, sources, sequences, args, signature, report, say, fresh)


def next_tokens(sources, tokenizer, data, args, phases=()) -> Sequences:
    """Training and evaluation data: blocks one token longer than the model's input, without an end token."""
    document_end = block_ends(tokenizer)[1] if args.document_attention else None

    def cut(tokens, length) -> Blocks:
        return Blocks(tokens, length + 1, (block_ends(tokenizer)[0], None), tokenizer.pad_token_id)

    def inputs(blocks, stages, phase, **order) -> NextTokens:
        return NextTokens(blocks, document_end=document_end, **order)

    return sequences_of(sources, data, args, phases, cut, inputs)
