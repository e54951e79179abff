"""Log-likelihoods of sentences by a masked or a causal language model, in nats.

Nothing is computed twice: an input that both sentences of a pair ask for is computed once. The vocabulary projection
runs at the predicted position alone, and a batch holds inputs of one length, without padding.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from recipe.data.tokenizer import block_ends
from recipe.model.config import is_causal
from recipe.model.families import FAMILIES
from recipe.system.errors import UserError

PLAIN, WITHIN_WORD = "accuracy", "within_word_accuracy"  # the scores of a sentence, by the name of their accuracy


@dataclass(frozen=True)
class Sentence:
    """Token ids int [tokens], begin and end tokens included, and the word of each token, None for those two."""

    ids: tuple[int, ...]
    words: tuple[int | None, ...]

    @property
    def text_ids(self) -> list[int]:
        """The ids of its text, without begin and end tokens."""
        return [token for token, word in zip(self.ids, self.words, strict=True) if word is not None]


def encode(texts: list[str], tokenizer: PreTrainedTokenizerFast, longest: int) -> list[Sentence]:
    """The sentences as the model reads them. Raises UserError for one of more than `longest` tokens."""
    batch = tokenizer(texts, add_special_tokens=True, truncation=False, padding=False)
    sentences = []
    for row, (text, ids) in enumerate(zip(texts, batch["input_ids"], strict=True)):
        if len(ids) > longest:
            raise UserError(
                f"found a sentence of {len(ids)} tokens, expected at most {longest}, the positions of the model: "
                f"{text[:60]!r}"
            )
        sentences.append(Sentence(tuple(ids), tuple(batch.word_ids(row))))
    return sentences


@dataclass
class _Queries:
    """Inputs of one length: `rows` of ids and, for each, the position that is predicted. `wanted` are (query, token id,
    sentence, score) whose log-probabilities are summed."""

    rows: list[tuple[int, ...]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    wanted: list[tuple[int, int, int, int]] = field(default_factory=list)


def likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sentences: list[Sentence],
    batch_tokens: int,
    threads: ThreadPoolExecutor | None = None,
    within_word: bool = False,
) -> dict[str, np.ndarray]:
    """{score: float64 [sentences]}. PLAIN is the pseudo-log-likelihood, the sum over the tokens of the log-probability
    of each where it alone is masked (Salazar et al., 2020, arXiv:1910.14659); of a causal model the sum of the
    log-probabilities of the tokens after a begin token. For WITHIN_WORD, of masked models, the tokens after it in the
    same word are masked as well (Kauf and Ivanova, 2023, arXiv:2305.10588), so that the end of a word doesn't betray
    its beginning."""
    if is_causal(model.config):
        return {PLAIN: _causal(model, tokenizer, sentences, batch_tokens, threads)}
    groups = _masked_queries(sentences, tokenizer.mask_token_id, within_word)
    found = _log_probabilities(model, groups, batch_tokens, threads)
    _, _, sentence, score = np.concatenate([np.array(group.wanted) for group in groups]).T
    return {
        name: np.bincount(sentence[score == number], weights=found[score == number], minlength=len(sentences))
        for number, name in enumerate((PLAIN, WITHIN_WORD) if within_word else (PLAIN,))
    }


def _masked_queries(sentences: list[Sentence], mask: int | None, within_word: bool) -> list[_Queries]:
    """The queries of each length."""
    assert mask is not None, "the tokenizer of a masked model has a mask token"
    groups: dict[int, _Queries] = defaultdict(_Queries)
    known: dict[tuple[tuple[int, ...], int], int] = {}
    for number, sentence in enumerate(sentences):
        group = groups[len(sentence.ids)]

        def ask(first: int, end: int, score: int, number=number, sentence=sentence, group=group) -> None:
            ids = (*sentence.ids[:first], *[mask] * (end - first), *sentence.ids[end:])
            query = known.setdefault((ids, first), len(group.rows))
            if query == len(group.rows):
                group.rows.append(ids)
                group.places.append(first)
            group.wanted.append((query, sentence.ids[first], number, score))

        end = len(sentence.ids)
        for place in range(len(sentence.ids) - 1, -1, -1):
            word = sentence.words[place]
            if word is None:
                continue
            if place + 1 == len(sentence.ids) or sentence.words[place + 1] != word:
                end = place + 1
            ask(place, place + 1, 0)
            if within_word:
                ask(place, end, 1)
    return list(groups.values())


def _log_probabilities(
    model: PreTrainedModel, groups: list[_Queries], batch_tokens: int, threads: ThreadPoolExecutor | None
) -> np.ndarray:
    """float64 [wanted of all groups]: the log-probability of each wanted token at the place of its query."""
    head, decoder = FAMILIES[model.config.model_type].head(model), model.get_output_embeddings()
    assert decoder is not None, "a language model has a vocabulary projection"

    @torch.inference_mode()
    def compute(batch: tuple[torch.Tensor, ...]) -> np.ndarray:
        ids, places, queries, tokens = (part.to(model.device) for part in batch)
        hidden = model.base_model(ids)[0]
        logits = decoder(head(hidden[torch.arange(len(ids), device=ids.device), places])).float()
        wanted = logits[queries, tokens] - logits.logsumexp(-1)[queries]
        return wanted.double().cpu().numpy()

    batches, parts, before = [], [], 0
    for group in groups:
        rows, places, wanted = torch.tensor(group.rows), torch.tensor(group.places), torch.tensor(group.wanted)
        by_query = wanted[:, 0].argsort(stable=True)
        queries, tokens = wanted[by_query, 0].contiguous(), wanted[by_query, 1]
        size = max(1, batch_tokens // rows.shape[1])
        for first in range(0, len(rows), size):
            start, stop = torch.searchsorted(queries, torch.tensor([first, first + size])).tolist()
            batch = slice(first, first + size)
            batches.append((rows[batch], places[batch], queries[start:stop] - first, tokens[start:stop]))
            parts.append(by_query[start:stop].numpy() + before)
        before += len(group.wanted)
    found = np.empty(before)
    for part, values in zip(parts, _each(compute, batches, threads), strict=True):
        found[part] = values
    return found


def _causal(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sentences: list[Sentence],
    batch_tokens: int,
    threads: ThreadPoolExecutor | None,
) -> np.ndarray:
    head, decoder = FAMILIES[model.config.model_type].head(model), model.get_output_embeddings()
    assert decoder is not None, "a language model has a vocabulary projection"
    begin, _ = block_ends(tokenizer)
    numbers: dict[tuple[int, ...], int] = {}  # equal sentences are computed once
    of_sentence = [numbers.setdefault((begin, *sentence.text_ids), len(numbers)) for sentence in sentences]
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for ids in numbers:
        by_length[len(ids)].append(ids)

    @torch.inference_mode()
    def compute(batch: list[tuple[int, ...]]) -> np.ndarray:
        ids = torch.tensor(batch, device=model.device)
        logits = decoder(head(model.base_model(ids[:, :-1], use_cache=False)[0])).float().log_softmax(-1)
        return logits.gather(-1, ids[:, 1:, None]).double().sum((1, 2)).cpu().numpy()

    batches = []
    for length, rows in by_length.items():
        size = max(1, batch_tokens // length)
        batches += [rows[first : first + size] for first in range(0, len(rows), size)] if length > 1 else []
    sums = np.zeros(len(numbers))
    for batch, totals in zip(batches, _each(compute, batches, threads), strict=True):
        sums[[numbers[row] for row in batch]] = totals
    return sums[of_sentence]


def _each(compute: Callable, batches: list, threads: ThreadPoolExecutor | None) -> Iterable[np.ndarray]:
    return threads.map(compute, batches) if threads else map(compute, batches)


def one_thread_per_core() -> ThreadPoolExecutor | None:
    """Threads that compute a batch each, with one core each: small matrices gain little from several cores. None where
    there is one core."""
    count = torch.get_num_threads()
    if count == 1:
        return None
    return ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))
