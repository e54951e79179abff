"""Toy text and toy models, made here: no network, no files of anyone's."""

import json
import os
import time
from pathlib import Path

import numpy as np
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from recipe.data.blocks import Blocks
from recipe.data.tokenizer import block_ends
from recipe.model.families import FAMILIES, MASKED
from recipe.objective.causal import NextTokens
from recipe.objective.masked_sequences import MaskedSequences
from recipe.objective.masking import Masking

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
WORDS = (
    "the cat sat on a mat while seven naïve dogs, (un)tied and re-tied by Ann-Marie's aunt, barked loudly: it's 1984!"
)

BPE_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
OWN_SETTINGS = {  # what sets the families' toy configs apart
    "roberta": BPE_IDS | NO_DROPOUT,
    "bert": {"pad_token_id": 0} | NO_DROPOUT,
    # Its second layer sees eight tokens at a time, fewer than a block has.
    "distilbert": {
        "pad_token_id": 0,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "hidden_dim": 32,
        "intermediate_size": None,
    },
    "electra": {"pad_token_id": 0, "embedding_size": 8} | NO_DROPOUT,
    "deberta-v2": {"pad_token_id": 0}
    | NO_DROPOUT
    | {"relative_attention": True, "pos_att_type": "p2c|c2p", "position_biased_input": False},
    "xlm-roberta": BPE_IDS | NO_DROPOUT,
    "camembert": BPE_IDS | NO_DROPOUT,
    "modernbert": BPE_IDS | {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 8},
}
TOKENIZERS = {name: family.tokenizer for name, family in FAMILIES.items()}  # the fixture of each family
ARCHITECTURES = {name: MODEL_FOR_MASKED_LM_MAPPING_NAMES[name] for name in MASKED}


def toy_documents(count: int = 200, seed: int = 0) -> list[str]:
    """Short documents of words in random order."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS.split(), size=generator.integers(5, 40))) for _ in range(count)]


def config_settings(family: str, vocab_size: int = 320, **more) -> dict:
    """A model of two layers, 16 wide."""
    common = {
        "model_type": family,
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 66,
    }
    settings = common | OWN_SETTINGS[family] | more
    if family == "distilbert" and "intermediate_size" in more:
        del settings["hidden_dim"]  # two names of one setting
    return {key: value for key, value in settings.items() if value is not None}


def flat_tokens(tokenizer, documents) -> np.ndarray:
    """Toy documents end to end, as prepared tokens are."""
    end = block_ends(tokenizer)[1]
    flat = [i for text in documents for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], end]]
    return np.array(flat, dtype=np.uint16)


def next_tokens_of(tokenizer, documents, length=32, order_seed=3, document_end=None) -> NextTokens:
    """Toy documents as a causal run's sequences."""
    tokens, ends = flat_tokens(tokenizer, documents), (block_ends(tokenizer)[0], None)
    blocks = Blocks(tokens, length + 1, ends, tokenizer.pad_token_id)
    return NextTokens(blocks, order_seed, document_end=document_end)


def sequences_of(
    tokenizer, documents, length=32, seed=7, order_seed=3, document_end=None, **masking
) -> MaskedSequences:
    """Toy documents as a run's sequences, without the files between."""
    blocks = Blocks(flat_tokens(tokenizer, documents), length, block_ends(tokenizer), tokenizer.pad_token_id)
    specials = tuple(tokenizer.all_special_ids)
    mask = Masking(len(tokenizer), tokenizer.mask_token_id, tokenizer.pad_token_id, specials, seed, **masking)
    return MaskedSequences(blocks, mask, order_seed, document_end=document_end)


def until(happens, seconds: float = 120, pause: float = 0.02) -> None:
    """Waits until `happens()`, asked every `pause` seconds, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)


def pretrain_command(folder: Path, run: str, *flags, **settings) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of a bash pretrain.sh on CPU processes: toy text and model in `folder`, 16 sequences of 32
    tokens per step, outputs in folder/run. `settings` are the script's variables."""
    text, config = folder / "corpus.txt", folder / "roberta.json"
    if not text.exists():
        text.write_text("\n\n".join(toy_documents(220)))
        config.write_text(json.dumps(config_settings("roberta", 400)))
    settings = {
        "MODEL": config, "DATASET": text, "TOKENIZER": "train", "VOCAB_SIZE": 300, "RECIPE": "demo", "SEQ_LENGTH": 32,
        "GLOBAL_BATCH_SIZE": 16, "MICRO_BATCH_SIZE": 4, "WARMUP_STEPS": 4, "EVAL_STEPS": 20, "LOGGING_STEPS": 1,
        "OUTPUT_DIR": folder / run, "OMP_NUM_THREADS": 1,
    } | settings  # fmt: skip
    command = ["bash", REPOSITORY / "pretrain.sh", "--prepared_dir", folder / "data", *flags]
    return list(map(str, command)), os.environ | {name: str(value) for name, value in settings.items()}
