"""Started by test_distributed.py under torchrun: a few steps of a toy model; rank 0 writes what they were."""

import json
import sys
from pathlib import Path

import torch
from test_trainer import Recorder, make_trainer, resume_point
from toy import toy_documents
from transformers import TrainerCallback

from recipe.errors import run_script
from recipe.tokenizer import train_tokenizer


class DropoutDraws(TrainerCallback):
    """What each rank's generator would draw next, gathered."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            generator_state = torch.get_rng_state()
            draw = torch.rand(1)
            torch.set_rng_state(generator_state)
            self.draws = [torch.zeros(1) for _ in range(args.world_size)]
            torch.distributed.all_gather(self.draws, draw)


def main(folder: Path, micro: int, accumulation: int, more: dict) -> None:
    documents = toy_documents()
    tokenizer = train_tokenizer(lambda: documents, kind="bpe", vocab_size=320, min_frequency=1)
    recorder, draws = Recorder(), DropoutDraws()
    trainer = make_trainer(
        folder, tokenizer, documents, micro=micro, accumulation=accumulation, steps=6, callbacks=[recorder, draws],
        **more,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume_point(folder))
    metrics = trainer.evaluate()
    if trainer.args.process_index == 0:
        steps = [(log["loss"], log["grad_norm"]) for log in recorder.logs if "loss" in log]
        found = {"steps": steps, "eval_loss": metrics["eval_loss"], "tokens": metrics["eval_masked_tokens"]}
        found["draws"] = [draw.item() for draw in getattr(draws, "draws", [])]
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    more = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    run_script(lambda: main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), more))
