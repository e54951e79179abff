"""Entities in sequences of labels, and precision, recall and F1 over them, as the CoNLL script counts them.

The numbers are those of seqeval, which a test compares; seqeval itself has no wheel, and its setup fails where
setuptools is new.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

Entity = tuple[str, int, int]  # kind, first word, last word


def entities_of(labels: Sequence[str]) -> set[Entity]:
    """The entities of a sentence in the scheme IOB2. An I- that continues no entity of its kind begins one."""
    found: set[Entity] = set()
    kind, first = "", 0
    for place, label in enumerate([*labels, "O"]):
        own = label[2:]
        if kind and not (label.startswith("I-") and own == kind):
            found.add((kind, first, place - 1))
            kind = ""
        if own and not kind:
            kind, first = own, place
    return found


def scores_of(actual: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> dict[str, dict[str, float]]:
    """{kind: precision, recall and f1}, under "" those of all entities together; 0 where there is nothing to divide."""
    found, said, true = Counter(), Counter(), Counter()
    for labels, others in zip(actual, predicted, strict=True):
        both = entities_of(labels), entities_of(others)
        for counter, entities in ((true, both[0]), (said, both[1]), (found, both[0] & both[1])):
            counter.update(kind for kind, _, _ in entities)
            counter[""] += len(entities)
    return {
        kind: {
            "precision": found[kind] / max(1, said[kind]),
            "recall": found[kind] / max(1, true[kind]),
            "f1": 2 * found[kind] / max(1, said[kind] + true[kind]),
        }
        for kind in sorted({"", *true, *said})
    }
