"""The exponential moving average of a run's weights, kept in fp32, saved with each checkpoint and resumed to the bit.

    average = d * average + (1 - d) * weights, after each step k, with d = min(decay, (1 + k) / (10 + k))

so that early steps, when the weights are far from where they end, leave the average soon.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback

from recipe.system.errors import UserError

EMA = "ema.safetensors"  # in a checkpoint, beside model.safetensors and with the same names
WEIGHTS = "model.safetensors"


class MovingAverage(TrainerCallback):
    """Averages the weights of `model` after each step. `resumed_from` is set to the checkpoint of a run that continues,
    before training begins."""

    def __init__(self, model: PreTrainedModel, decay: float):
        self.model, self.decay = model, decay
        self.resumed_from: Path | None = None
        self.averages: dict[int, torch.Tensor] = {}  # by the id of a parameter: tied ones have several names

    def on_train_begin(self, args, state, control, **kwargs):
        if self.resumed_from is not None:
            self.load(self.resumed_from)
        else:
            self.averages = {id(p): p.detach().float().clone() for p in self.model.parameters()}

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        share = 1 - min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for parameter in self.model.parameters():
            self.averages[id(parameter)].lerp_(parameter.detach().float(), share)

    def save(self, folder: Path) -> None:
        """Writes the averages into the checkpoint `folder`, under the names of its model.safetensors."""
        named: dict[str, torch.Tensor] = self.model.state_dict(keep_vars=True)
        with safe_open(folder / WEIGHTS, "pt") as stored:
            names = list(stored.keys())
        tensors = {name: self.averages.get(id(named[name]), named[name].detach()) for name in names}
        save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, folder / EMA, {"format": "pt"})

    def load(self, folder: Path) -> None:
        """Restores the averages of the checkpoint `folder`. Raises UserError where it has none."""
        try:
            tensors = load_file(folder / EMA)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{folder} has no {EMA}, the moving average of its run: expected one that was trained with "
                "--ema_decay; leave the flag out"
            ) from error
        named = self.model.state_dict(keep_vars=True)
        device = next(self.model.parameters()).device
        self.averages = {id(named[name]): tensor.float().to(device) for name, tensor in tensors.items()}
