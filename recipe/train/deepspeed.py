"""DeepSpeed ZeRO and checkpoints: gathers the fp32 weights of a sharded engine, and reshards an optimizer for another
world size."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from recipe.system.errors import UserError

# https://www.deepspeed.ai/tutorials/universal-checkpointing/
CONVERTER = (sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state")
LOAD_UNIVERSAL = {"load_universal": True}  # the value of "checkpoint" in the DeepSpeed config


def avoid_compiling() -> None:
    """Keeps DeepSpeed on a CPU from compiling its shared-memory collectives at the first start, which takes a minute
    and a compiler; gloo's collectives are used instead."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def is_sharded(engine) -> bool:
    """Whether `engine` is a DeepSpeed engine that shards its optimizer (ZeRO stage 1 or higher)."""
    return engine is not None and engine.zero_optimization()


def master_weights(engine) -> dict[str, torch.Tensor]:
    """The state dict of the engine's model with the optimizer's fp32 master weights, unsharded, on the CPU.

    Every rank must call it; only the first gets the weights, the others an empty dict.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    first = torch.distributed.get_rank() == 0
    weights = {}
    for parameter in engine.module.parameters():
        value = safe_get_full_fp32_param(parameter)
        if first:
            weights[id(parameter)] = (parameter if value is None else value).detach().float().cpu().clone()
    if not first:
        return {}
    tensors = engine.module.state_dict(keep_vars=True)  # tied weights appear under each of their names
    return {name: weights.get(id(tensor), tensor.detach().cpu()) for name, tensor in tensors.items()}


def unsharded_model(model, saved: Path):
    """`model`; or, if ZeRO-3 shards its weights so that no single rank can use it, the model loaded from `saved`."""
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return model
    unset_hf_deepspeed_config()  # or ZeRO-3 would shard this one as well, which all ranks must do together
    return type(model).from_pretrained(saved)


def optimizer_shards(checkpoint: Path) -> int:
    """The number of shards of a checkpoint's DeepSpeed optimizer; 0 if DeepSpeed didn't save the checkpoint."""
    return len(list(checkpoint.glob("global_step*/*_optim_states.pt")))


def universal_copy(checkpoint: Path, folder: Path) -> Path:
    """Converts `checkpoint` to a universal checkpoint (one file per weight and moment) in `folder`, which any number of
    ranks can resume from if LOAD_UNIVERSAL is in their DeepSpeed config; `checkpoint` isn't changed. Returns `folder`.

    Raises UserError if DeepSpeed can't convert it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    shards = next(checkpoint.glob("global_step*"))
    target = folder / f"{shards.name}_universal"
    done = subprocess.run(
        [*CONVERTER, "--input_folder", str(shards.absolute()), "--output_folder", str(target.absolute())],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise UserError(
            f"DeepSpeed cannot convert {checkpoint} for another number of processes: {reason}: use "
            f"{optimizer_shards(checkpoint)}"
        )
    (folder / "latest_universal").write_text(target.name)
    return folder


def restore_groups(engine, checkpoint: Path) -> None:
    """Restores the settings and step count of each parameter group after a universal checkpoint was loaded.

    ZeRO-3 of DeepSpeed 0.19 gives every group the settings of the first, so that biases would decay, and one shared
    step count, which each group then advances. The other stages are not affected.
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
