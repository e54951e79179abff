# What recipe/ and the scripts import from transformers, for the type checker alone. transformers' own __init__ names
# every model, so that checking it takes 30 s more. Classes stand here where its annotations are wider than what it
# does, or say what no caller can satisfy.
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Self, overload

import numpy as np
import torch
from tokenizers import AddedToken
from transformers.configuration_utils import PreTrainedConfig as PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel as PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING as CONFIG_MAPPING
from transformers.models.auto.configuration_auto import AutoConfig as AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM as AutoModelForCausalLM
from transformers.models.auto.modeling_auto import AutoModelForMaskedLM as AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
from transformers.models.auto.modeling_auto import (
    AutoModelForSequenceClassification as AutoModelForSequenceClassification,
)
from transformers.models.auto.modeling_auto import (
    AutoModelForTokenClassification as AutoModelForTokenClassification,
)
from transformers.models.auto.tokenization_auto import AutoTokenizer as AutoTokenizer
from transformers.optimization import get_scheduler as get_scheduler
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.trainer import Trainer as Trainer
from transformers.trainer_callback import TrainerCallback as TrainerCallback
from transformers.trainer_callback import TrainerState as TrainerState
from transformers.trainer_utils import set_seed as set_seed
from transformers.training_args import TrainingArguments as TrainingArguments

MODEL_FOR_CAUSAL_LM_MAPPING: Mapping[type[PreTrainedConfig], type[PreTrainedModel]]
MODEL_FOR_MASKED_LM_MAPPING: Mapping[type[PreTrainedConfig], type[PreTrainedModel]]

class HfArgumentParser(ArgumentParser):
    # transformers annotates classes as instances of a NewType, which no class is.
    def __init__(self, dataclass_types: type | Iterable[type] | None = None, **kwargs: Any) -> None: ...
    def parse_args_into_dataclasses(
        self, args: list[str] | None = None, return_remaining_strings: bool = False
    ) -> tuple[Any, ...]: ...

class PreTrainedTokenizerFast(TokenizersBackend):
    # One token gives one id or text, several a list. Special tokens are found by __getattr__, without a type.
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    sep_token: str | None
    pad_token: str | None
    cls_token: str | None
    mask_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    sep_token_id: int | None
    pad_token_id: int | None
    cls_token_id: int | None
    mask_token_id: int | None
    @classmethod
    def from_pretrained(cls, name: str | PathLike[str], **kwargs: Any) -> Self: ...
    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]: ...
    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int], skip_special_tokens: bool = False) -> list[str]: ...
    @overload
    def decode(
        self, token_ids: int | list[int] | np.ndarray | torch.Tensor, skip_special_tokens: bool = False, **kwargs: Any
    ) -> str: ...
    @overload
    def decode(self, token_ids: list[list[int]], skip_special_tokens: bool = False, **kwargs: Any) -> list[str]: ...
    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, str | AddedToken | Sequence[str | AddedToken] | None],
        replace_extra_special_tokens: bool = True,
    ) -> int: ...

class AlbertTokenizer(PreTrainedTokenizerFast): ...
class BertTokenizer(PreTrainedTokenizerFast): ...
class GPT2Tokenizer(PreTrainedTokenizerFast): ...
class RobertaTokenizer(PreTrainedTokenizerFast): ...
class XLMRobertaTokenizer(PreTrainedTokenizerFast): ...
