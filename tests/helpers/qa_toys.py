"""Toy questions in SQuAD's layout: "which <noun> <verb> the <noun>" about contexts of such sentences."""

import json
from pathlib import Path

import numpy as np
from glue_toys import NOUNS, VERBS
from transformers import TrainerCallback

COLOURS = ["red", "blue", "green", "white", "black", "grey"]


def paragraphs(count: int, seed: int = 0, sentences: int = 4) -> list[dict]:
    """Paragraphs of sentences "the red cat sees the dog.", two questions each, of which the answer is the colour."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    made = []
    for number in range(count):
        nouns = generator.permutation(NOUNS)[:sentences] if sentences <= len(NOUNS) else np.resize(NOUNS, sentences)
        context, facts = "", []
        for noun in nouns:
            colour, verb, other = (str(generator.choice(words)) for words in (COLOURS, VERBS, NOUNS))
            facts.append((str(noun), colour, len(context) + len("the ")))
            context += f"the {colour} {noun} {verb} the {other}. "
        questions = [
            {
                "id": f"q{seed}-{number}-{place}",
                "question": f"what colour is the {facts[place][0]}?",
                "answers": [{"text": facts[place][1], "answer_start": facts[place][2]}],
            }
            for place in (0, len(facts) - 1)
        ]
        made.append({"context": context.strip(), "qas": questions})
    return made


def squad_of(made: list[dict], version: str = "1.1") -> dict:
    """The content of an official file with these paragraphs, two an article."""
    articles = [{"title": f"t{n}", "paragraphs": made[n : n + 2]} for n in range(0, len(made), 2)]
    return {"version": version, "data": articles}


def with_negatives(made: list[dict]) -> list[dict]:
    """Every second question loses its answer, as in SQuAD 2.0."""
    for paragraph in made:
        paragraph["qas"][0]["is_impossible"] = False
        paragraph["qas"][1] |= {"is_impossible": True, "answers": []}
    return made


def write_squad(folder: Path, train: int = 12, dev: int = 4, negatives: bool = False, **more) -> Path:
    """train and dev files of a version in the official layout. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    version = "v2.0" if negatives else "v1.1"
    for seed, (stem, count) in enumerate((("train", train), ("dev", dev))):
        made = paragraphs(count, seed, **more)
        made = with_negatives(made) if negatives else made
        (folder / f"{stem}-{version}.json").write_text(json.dumps(squad_of(made, version)))
    return folder


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt
