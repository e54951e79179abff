"""Arguments that name a model and its tokenizer."""

from dataclasses import dataclass

from recipe.cli.parser import option


@dataclass
class HubArguments:
    """How names of the hub are resolved."""

    cache_dir: str | None = option(None, "Where downloads from the hub are kept.")
    model_revision: str = option("main", "Branch, tag or commit of a hub model and its tokenizer.")
    token: str | None = option(None, "Hub token; by default the one of `hf auth login`.")
    trust_remote_code: bool = option(False, "Run code that a hub repository brings. Off: only transformers' own.")

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
    """Which model and tokenizer."""

    model_name_or_path: str | None = option(None, "Checkpoint (hub id or folder) whose pre-training is continued.")
    config_name: str | None = option(None, "Config of a model from scratch: a file of configs/, a folder or a hub id.")
    model_type: str | None = option(None, "A model from scratch with its family's base config: roberta, bert ...")
    config_overrides: str | None = option(None, "Changes to the config: key=value,key=value.")
    dropout: float | None = option(None, "Every dropout of the encoder; by default the config's. 0 is off.")
    tokenizer_name: str | None = option(None, "Hub id or folder, or `train` for one of our own on the corpus.")
    use_fast_tokenizer: bool = option(True, "Only fast tokenizers are supported.")
    vocab_size: int = option(8192, "Size of a tokenizer that is trained here.")
    lowercase: bool = option(False, "Whether a tokenizer that is trained here lower-cases its text.")
