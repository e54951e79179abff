"""The console of a run: one readable line per log entry."""

from transformers import TrainerCallback

from recipe.model.metrics import shown_metrics
from recipe.system.progress import say
from recipe.train.model_card import losses_by_source
from recipe.train.schedules import UNLIMITED_STEPS


class Console(TrainerCallback):
    """Prints a line per training log and evaluation, above the progress bar where there is one."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = _line(state, logs or {}) if state.is_world_process_zero else ""
        if line:
            say(line)


def _line(state, logs: dict) -> str:
    """A training or evaluation log as one line; "" for any other log."""
    step = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
    if state.max_steps == UNLIMITED_STEPS:
        step = f"step {state.global_step:>6}"
    if "loss" in logs:
        mfu = f"  MFU {logs['mfu']:.1%}" if "mfu" in logs else ""
        return (
            f"{step}  loss {logs['loss']:.3f}  grad {logs.get('grad_norm', 0):.2f}  "
            f"lr {logs.get('learning_rate', 0):.2e}  {logs.get('tokens_per_second', 0):,.0f} tokens/s{mfu}"
        )
    if "eval_loss" in logs:
        baseline = f"  (unigram {logs['eval_unigram_loss']:.3f})" if "eval_unigram_loss" in logs else ""
        metrics = "".join(f"  {title} {value}" for title, value in shown_metrics(logs).items())
        own = losses_by_source(logs)
        sources = f" = {', '.join(f'{name} {loss:.3f}' for name, loss in own.items())}" if own else ""
        return f"{step}  eval loss {logs['eval_loss']:.3f}{sources}{baseline}{metrics}"
    return ""
