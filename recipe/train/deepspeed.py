"""DeepSpeed's ZeRO at the two places where it touches a checkpoint: the whole fp32 weights of an engine whose ranks
hold parts of them, and an optimizer's parts cut anew for another number of ranks."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from recipe.system.errors import UserError

# https://www.deepspeed.ai/tutorials/universal-checkpointing/
CONVERTER = (sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state")
SETTING = {"load_universal": True}  # of the DeepSpeed config's "checkpoint"


def avoid_compiling() -> None:
    """Keeps DeepSpeed on a CPU from compiling its shared-memory collectives at the first start, which takes a minute
    and a compiler; gloo's serve as well."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def is_sharded(engine) -> bool:
    """Whether `engine` is a DeepSpeed engine that splits its optimizer (ZeRO stage 1 or more)."""
    return engine is not None and engine.zero_optimization()


def master_weights(engine) -> dict[str, torch.Tensor]:
    """The state dict of an engine's model with every weight as the optimizer holds it: whole, in fp32, on the CPU.

    Every rank must call it; only the first gets the weights, the others an empty dict.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    first = torch.distributed.get_rank() == 0
    whole = {}
    for parameter in engine.module.parameters():
        value = safe_get_full_fp32_param(parameter)
        if first:
            whole[id(parameter)] = (parameter if value is None else value).detach().float().cpu().clone()
    if not first:
        return {}
    tensors = engine.module.state_dict(keep_vars=True)  # tied weights under each of their names
    return {name: whole.get(id(tensor), tensor.detach().cpu()) for name, tensor in tensors.items()}


def whole_model(model, saved: Path):
    """`model`; or, where ZeRO-3 keeps its weights in parts, so that one rank alone can't use it, the one in `saved`."""
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return model
    unset_hf_deepspeed_config()  # or it would be split while it is made, too, by all ranks together
    return type(model).from_pretrained(saved)


def ranks_of(checkpoint: Path) -> int:
    """Into how many parts a checkpoint's optimizer is split; 0 for one that DeepSpeed didn't save."""
    return len(list(checkpoint.glob("global_step*/*_optim_states.pt")))


def universal_copy(checkpoint: Path, folder: Path) -> Path:
    """Makes `folder` a copy of `checkpoint` that any number of ranks can resume from, if SETTING is in their DeepSpeed
    config (a universal checkpoint: one file a weight and moment). `checkpoint` stays as it is. Returns `folder`.

    Raises UserError where DeepSpeed can't convert it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    parts = next(checkpoint.glob("global_step*"))
    target = folder / f"{parts.name}_universal"
    done = subprocess.run(
        [*CONVERTER, "--input_folder", str(parts.absolute()), "--output_folder", str(target.absolute())],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise UserError(
            f"DeepSpeed cannot cut {checkpoint} for another number of processes: {reason}: use {ranks_of(checkpoint)}"
        )
    (folder / "latest_universal").write_text(target.name)
    return folder


def mend_universal_load(engine, checkpoint: Path) -> None:
    """Gives each group of the optimizer its own settings and step count back, after a universal checkpoint was loaded.

    ZeRO-3 of DeepSpeed 0.19 gives all groups the first one's settings, so that biases decay, and one step count, which
    each group then advances. The other stages need nothing.
    """
    if not engine.zero_optimization_partition_weights():
        return
    optimizer = engine.optimizer.optimizer
    file = next(checkpoint.glob("global_step*_universal/zero/optimizer_state.pt"))
    groups = torch.load(file, weights_only=False)["optimizer_state_dict"]["param_groups"]
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        group.update({name: value for name, value in saved.items() if name != "params"})
    for state in optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()
