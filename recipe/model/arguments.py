"""Arguments that name a model and its tokenizer."""

from dataclasses import dataclass

from recipe.cli.parser import option


@dataclass
class HubArguments:
    """How models and datasets on the Hugging Face Hub are accessed."""

    cache_dir: str | None = option(None, "Cache folder of downloads; by default that of Hugging Face.")
    model_revision: str = option("main", "Branch, tag or commit of a model on the hub and of its tokenizer.")
    token: str | None = option(None, "Access token of the hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(
        False, "Run code from the model's repository; off, only classes of transformers are used."
    )

    def hub_options(self) -> dict:
        """Keyword arguments for from_pretrained."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass
class ModelArguments(HubArguments):
    """Which model and tokenizer to pre-train."""

    model_name_or_path: str | None = option(None, "Checkpoint to continue pre-training from: a folder or hub id.")
    config_name: str | None = option(None, "Config of a new model: a file of configs/, a folder or a hub id.")
    model_type: str | None = option(None, "New model with the base config of a family: roberta, bert, modernbert ...")
    config_overrides: str | None = option(None, "Changes to the config of a new model: key=value,key=value.")
    dropout: float | None = option(
        None, "Rate of every dropout in the encoder; by default the config's. 0 turns dropout off."
    )
    tokenizer_name: str | None = option(
        None, "Hub id or folder, or train: train one on the corpus. By default the model's."
    )
    add_tokens: str | None = option(
        None, "Text file of tokens, one a line, that a checkpoint's tokenizer gets: the words of a domain."
    )
    use_fast_tokenizer: bool = option(True, "Must be on: only fast tokenizers are supported.")
    vocab_size: int = option(8192, "Tokens of a tokenizer that is trained here, special tokens included.")
    lowercase: bool = option(False, "Let a tokenizer that is trained here lower-case its text.")
