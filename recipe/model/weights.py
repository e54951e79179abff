"""Loading of weights with every tensor accounted for: transformers itself initialises missing ones at random and only
logs a warning."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from recipe.model.checkpoints import step_of
from recipe.system.errors import UserError
from recipe.system.files import DamagedFile, read_object
from recipe.system.manifest import MANIFEST, damage

_LAYER = re.compile(r"\.layers?\.(\d+)\.")
_NAMED = 3  # tensors named in a message; further ones are counted


def load_weights(
    auto_class: type,
    source: str,
    config: PreTrainedConfig,
    *,
    new_head: bool = False,
    ignore_mismatched_sizes: bool = False,
    damage_of: Callable[[Path], str | None] = damage,
    **hub_options,
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """(the model in fp32, names of weights that `source` lacks, names of weights that the model lacks).

    Weights of another shape are initialised at random: outside of the encoder with `new_head`, everywhere with
    `ignore_mismatched_sizes`. Raises UserError where `source` is a damaged checkpoint or cannot be loaded, and where
    weights of the encoder are missing, left over or of another shape.
    """
    folder = Path(source).expanduser()
    if ((folder / MANIFEST).exists() or (folder.is_dir() and step_of(folder) >= 0)) and (reason := damage_of(folder)):
        raise UserError(f"{folder} is damaged or incomplete: {reason}: choose another checkpoint")
    try:
        model, report = auto_class.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=new_head or ignore_mismatched_sizes,
            **hub_options,
        )
    except Exception as error:  # safetensors, torch, the hub and transformers raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load the model {source}: {reason}: choose another checkpoint") from error
    other_shape = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    drawn, left_over = sorted({*report["missing_keys"], *other_shape}), sorted(report["unexpected_keys"])
    needed = report["missing_keys"] if ignore_mismatched_sizes else drawn
    if missing := sorted(name for name in needed if _is_in_encoder(name, model)):
        raise UserError(
            f"{source} has no weights for {describe_weights(missing)} of a {config.model_type} model, which would be "
            "drawn at random: expected a complete checkpoint of this architecture"
        )
    if more := [name for name in left_over if _is_in_encoder(name, model)]:
        raise UserError(
            f"{source} has weights for {describe_weights(more)}, which its config lacks: expected the one it was "
            "trained with"
        )
    return model, drawn, left_over


def _is_in_encoder(name: str, model: PreTrainedModel) -> bool:
    """Whether a weight affects the encoder's output: all except poolers and constant buffers."""
    inside = name.startswith(f"{model.base_model_prefix}.") or _LAYER.search(f".{name}") is not None
    return inside and "pooler." not in name and not name.endswith("position_ids")


def has_no_head(model: PreTrainedModel, drawn: list[str]) -> bool:
    """Whether the head's weights are all in `drawn`, as for the folder of a plain BertModel."""
    embeddings: Any = model.get_input_embeddings()  # to which the projection may be tied
    head = {
        name
        for name, weight in model.named_parameters()
        if not name.startswith(f"{model.base_model_prefix}.") and weight is not embeddings.weight
    }
    return bool(head) and head <= set(drawn)


def describe_weights(names: list[str]) -> str:
    """A short description of weights for messages: the numbers of layers, and names of other weights."""
    layers = sorted({int(found[1]) for name in names if (found := _LAYER.search(name))})
    others = [name for name in names if not _LAYER.search(name)]
    parts = [f"encoder layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"] if layers else []
    parts += [", ".join(others[:_NAMED])] if others else []
    parts += [f"{len(others) - _NAMED} more"] if len(others) > _NAMED else []
    return " and ".join(parts)


def weights_fault(folder: Path, model: PreTrainedModel) -> str | None:
    """How the weights in `folder` differ from those of `model`, in a few words; None where they match.

    Compares names and shapes only; the manifest covers the contents.
    """
    try:
        found = _shapes_of(folder)
    except Exception as error:  # safetensors and the system raise their own
        return f"its weights cannot be read ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    tied = defaultdict(dict)  # {id of a tensor: its names}, of which one is saved
    for name, tensor in model.state_dict(keep_vars=True).items():
        tied[id(tensor)][name] = tuple(getattr(tensor, "ds_shape", tensor.shape))  # ZeRO-3 partitions it
    if missing := [next(iter(names)) for names in tied.values() if not names.keys() & found.keys()]:
        return f"it has no weights for {describe_weights(missing)}"
    expected = {name: shape for names in tied.values() for name, shape in names.items()}
    if more := sorted(found.keys() - expected.keys()):
        return f"it has weights for {describe_weights(more)}, which the model lacks"
    for name, shape in found.items():
        if shape != expected[name]:
            return f"its {name} has shape {list(shape)}, the model's has {list(expected[name])}"
    return None


def _shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors in a model's folder."""
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if index.exists():
        try:
            files = [folder / name for name in sorted(set(read_object(index)["weight_map"].values()))]
        except (DamagedFile, KeyError, TypeError, AttributeError) as error:
            raise DamagedFile(f"{index.name} is unreadable") from error
    shapes = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            shapes |= {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    return shapes
