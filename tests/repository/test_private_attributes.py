"""Dependencies on other packages that may change without notice: private names, and signatures of overridden methods.
After an upgrade, each one that is gone or has changed fails a test of its own.

The lists are checked for completeness against the syntax trees of recipe/, the scripts and benchmarks/, and against the
classes. For a new use the test prints the line to add here. Not found: private names built at run time, as by
getattr(x, "_" + name), and private names of other packages that equal one defined here.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from toy import REPOSITORY

# {name: where it is defined}: a class (with the attribute, or methods that assign it to self), or for other names a file
# of the package that contains it.
PRIVATE = {
    "Accelerator._models": "accelerate.Accelerator",
    "ArgumentParser._actions": "argparse.ArgumentParser",
    "DataLoader.__getitems__": "torch/utils/data/_utils/fetch.py",
    "deepspeed.ops.__compatible_ops__": "deepspeed/ops/__init__.py",
    "fsspec._strip_protocol": "fsspec.AbstractFileSystem",
    "LRScheduler._last_lr": "torch.optim.lr_scheduler.LRScheduler",
    "LRScheduler._step_count": "torch.optim.lr_scheduler.LRScheduler",
    "Muon._init_group": "torch.optim.Muon",
    "ray.init._node_ip_address": "ray/_private/worker.py",
    "save_to_disk._data_files": "datasets/arrow_dataset.py",
    "PreTrainedConfig._attn_implementation": "transformers.PreTrainedConfig",
    "Trainer._created_lr_scheduler": "transformers.Trainer",
    "Trainer._get_grad_norm": "transformers.Trainer",
    "Trainer._get_output_dir": "transformers.Trainer",
    "Trainer._globalstep_last_logged": "transformers.Trainer",
    "Trainer._init_training_state": "transformers.Trainer",
    "Trainer._load_from_checkpoint": "transformers.Trainer",
    "Trainer._load_optimizer_and_scheduler": "transformers.Trainer",
    "Trainer._loss_shifts_labels": "transformers.Trainer",
    "Trainer._prepare_inputs": "transformers.Trainer",
    "Trainer._save": "transformers.Trainer",
    "Trainer._save_checkpoint": "transformers.Trainer",
    "Trainer._tr_loss": "transformers.Trainer",
    "Trainer._wrap_model": "transformers.Trainer",
}

# Keys in files of earlier releases, which no later release can change.
FORMER = {"_indices_data_files", "_indices_files"}  # state.json of datasets before 2.0

EVENTS = (
    "on_init_end on_train_begin on_train_end on_epoch_begin on_epoch_end on_step_begin on_pre_optimizer_step "
    "on_optimizer_step on_substep_end on_step_end on_evaluate on_save on_log on_prediction_step on_push_begin"
)
EVENT = "args, state, control, **kwargs"
# {class: {overridden method: its parameters, with "=" after those that have a default}}.
OVERRIDES = {
    "torch.optim.Muon": {"_init_group": "group, params_with_grad, grads, muon_momentum_bufs"},
    "torch.optim.optimizer.Optimizer": {"step": "closure="},
    "transformers.trainer.Trainer": {
        "_get_grad_norm": "model, grad_norm=",
        "_get_output_dir": "trial",
        "_init_training_state": "max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial",
        "_load_optimizer_and_scheduler": "checkpoint",
        "_save": "output_dir=, state_dict=",
        "_save_checkpoint": "model, trial",
        "compute_loss": "model, inputs, return_outputs=, num_items_in_batch=",
        "create_scheduler": "num_training_steps, optimizer=",
        "evaluate": "eval_dataset=, ignore_keys=, metric_key_prefix=",
        "evaluation_loop": "dataloader, description, prediction_loss_only=, ignore_keys=, metric_key_prefix=",
        "floating_point_ops": "inputs",
        "get_eval_dataloader": "eval_dataset=",
        "get_optimizer_cls_and_kwargs": "args, model=",
        "get_test_dataloader": "test_dataset",
        "get_train_dataloader": "",
        "log": "logs, start_time=",
        "save_metrics": "split, metrics, combined=",
        "save_model": "output_dir=, _internal_call=",
        "save_state": "",
        "train": "resume_from_checkpoint=, trial=, ignore_keys_for_eval=",
        "training_step": "model, inputs, num_items_in_batch=",
    },
    "transformers.trainer_callback.ExportableState": {"state": ""},
    "transformers.trainer_callback.TrainerCallback": {  # most are overridden by the class that guards trackers
        **dict.fromkeys(EVENTS.split(), EVENT),
        "on_predict": "args, state, control, metrics, **kwargs",
    },
}
SIGNATURES = {f"{kind}.{name}": taken for kind, methods in OVERRIDES.items() for name, taken in methods.items()}

SCRIPTS = sorted(REPOSITORY.glob("*.py"))
MODULES = sorted(path for path in (REPOSITORY / "recipe").rglob("*.py") if path.name != "__main__.py")
BENCHMARKS = sorted((REPOSITORY / "benchmarks").rglob("*.py"))
PRIVATE_NAME = re.compile(r"_[A-Za-z0-9]\w*|__\w+__")
LOOKUPS = {"getattr", "hasattr", "setattr", "delattr", "get", "pop"}
GET_ITEMS = "__getitems__"  # defined here; torch's DataLoader calls it if it exists
# Dunder names documented by the language, and os._exit.
DOCUMENTED = {name for kind in (object, dict, list, type, ast, property, BaseException) for name in dir(kind)} | {
    "__all__", "__annotations__", "__enter__", "__exit__", "__future__", "__main__", "__path__", "__post_init__", "__version__", "_exit",
}  # fmt: skip


class Names:
    """Private names in a syntax tree: used as attributes or imports, used as keys or strings, and defined there."""

    def __init__(self, tree: ast.AST):
        self.attributes: dict[str, int] = {}  # {name: line}
        self.keys: dict[str, int] = {}
        self.own: set[str] = set()
        for node in ast.walk(tree):
            self._look_at(node)

    def _look_at(self, node: ast.AST) -> None:
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                self.own.add(name)
            case ast.Attribute(attr=name):
                _note(self.attributes, name, node)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self.own.add(name)
                if name == GET_ITEMS:
                    _note(self.keys, name, node)
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                self.own.add(name)
            case ast.keyword(arg=name):
                _note(self.attributes, name, node.value)
            case ast.ImportFrom(module=module, names=aliases):
                for name in [*(module or "").split("."), *(alias.name for alias in aliases)]:
                    _note(self.attributes, name, node)
            case ast.Import(names=aliases):
                for name in [part for alias in aliases for part in alias.name.split(".")]:
                    _note(self.attributes, name, node)
            case ast.Subscript(slice=ast.Constant(value=name)):
                _note(self.keys, name, node)
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in LOOKUPS:
                for value in node.args:
                    _note(self.keys, getattr(value, "value", None), node)


def _note(found: dict[str, int], name: object, node: ast.AST) -> None:
    if isinstance(name, str) and PRIVATE_NAME.fullmatch(name) and name not in DOCUMENTED:
        found.setdefault(name, node.lineno)


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] in {"recipe", *(path.stem for path in SCRIPTS)}


def is_of_a_package(kind: type) -> bool:
    return not is_ours(kind) and kind.__module__.split(".")[0] not in sys.stdlib_module_names


@cache
def classes() -> list[type]:
    """Every class of recipe/ and the scripts that inherits from a class of another package."""
    found: dict[type, None] = {}
    for path in [*MODULES, *SCRIPTS]:
        module = importlib.import_module(module_name(path))
        kinds = [value for value in vars(module).values() if inspect.isclass(value) and is_ours(value)]
        found.update(dict.fromkeys(kind for kind in kinds if any(map(is_of_a_package, kind.__mro__))))
    return list(found)


@cache
def names_of_a_class(kind: type) -> frozenset[str]:
    """Attributes of a class, and those that its methods or its bases' methods assign to self."""
    names = set(dir(kind))
    for base in kind.__mro__[:-1]:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # a built-in class
            continue
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ):
                names.add(node.attr)
    return frozenset(names)


@cache
def found_private_names() -> dict[str, str]:
    """{private name of another package: a place that uses it}."""
    attributes: dict[str, str] = {}
    keys: dict[str, str] = {}
    own: set[str] = set()
    for path in [*MODULES, *SCRIPTS, *BENCHMARKS]:
        names = Names(ast.parse(path.read_text()))
        own |= names.own
        for places, lines in ((attributes, names.attributes), (keys, names.keys)):
            for name, line in lines.items():
                places.setdefault(name, f"{path.relative_to(REPOSITORY)}:{line}")
    found = {name: place for name, place in attributes.items() if name not in own} | keys
    for kind in classes():  # a name that a class here defines or assigns may belong to its base
        inherited = frozenset().union(*(names_of_a_class(base) for base in kind.__mro__ if is_of_a_package(base)))
        for base in filter(is_ours, kind.__mro__):
            names = Names(ast.parse(textwrap.dedent(inspect.getsource(base))))
            for name in (names.attributes.keys() | names.own) & inherited:
                if PRIVATE_NAME.fullmatch(name) and name not in DOCUMENTED:
                    found.setdefault(name, f"{base.__module__}.{base.__name__}")
    return {name: place for name, place in found.items() if name not in FORMER}


@cache
def found_overrides() -> dict[str, str]:
    """{overridden method of another package: the overriding class}, public and private methods."""
    found: dict[str, str] = {}
    for kind in classes():
        for position, base in enumerate(kind.__mro__):
            if not is_ours(base):
                continue
            theirs = [other for other in kind.__mro__[position + 1 :] if is_of_a_package(other)]
            for name in (name for name in vars(base) if not re.fullmatch(r"__\w+__", name)):
                owner = next((other for other in theirs if inspect.isroutine(vars(other).get(name))), None)
                if owner is not None and hasattr(getattr(base, name), "__code__"):
                    path = f"{owner.__module__}.{owner.__qualname__}.{name}"
                    found.setdefault(path, f"{base.__module__}.{base.__qualname__}")
    return found


def parameters(method) -> str:
    """A signature such as "model, trial=, *args", without type hints and default values, which may change."""
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return ", ".join(
        marks.get(parameter.kind, "") + name + ("=" if parameter.default is not parameter.empty else "")
        for name, parameter in inspect.signature(method).parameters.items()
        if name != "self"
    )


def resolve(path: str):
    """The class or method that a dotted path names."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(path)


def release(package: str) -> str:
    return (
        f"{package} {version(package)}"
        if package not in sys.stdlib_module_names
        else f"Python {sys.version.split()[0]}"
    )


def test_every_private_name_in_use_is_listed():
    found = found_private_names()
    listed = {entry.rsplit(".", 1)[1] for entry in PRIVATE}
    missing = [f"{name} ({place})" for name, place in sorted(found.items()) if name not in listed]
    assert not missing, f"private names of other packages that PRIVATE lacks: {', '.join(missing)}"
    unused = sorted(listed - set(found))
    assert not unused, f"PRIVATE lists what is no longer used: {', '.join(unused)}"


def test_every_overridden_method_is_listed():
    found = found_overrides()
    missing = [f"{path}: {parameters(resolve(path))!r} ({found[path]})" for path in sorted(found.keys() - SIGNATURES)]
    assert not missing, "overridden methods that OVERRIDES lacks:\n" + "\n".join(missing)
    unused = sorted(SIGNATURES.keys() - found.keys())
    assert not unused, f"OVERRIDES lists what is no longer overridden: {', '.join(unused)}"


@pytest.mark.parametrize("entry", PRIVATE)
def test_the_private_name_still_exists(entry):
    name, home = entry.rsplit(".", 1)[1], PRIVATE[entry]
    package = home.split("/")[0].split(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if "/" in home:
        there = name in Path(find_spec(package).submodule_search_locations[0]).parent.joinpath(home).read_text()
    else:
        there = name in names_of_a_class(resolve(home))
    if not there:
        used = found_private_names().get(name)
        pytest.fail(f"{release(package)}: {home} no longer has {name}, which {used} uses", pytrace=False)


@pytest.mark.parametrize("path", SIGNATURES)
def test_the_overridden_method_has_the_listed_signature(path):
    package = path.split(".")[0]
    try:
        now = parameters(resolve(path))
    except (AttributeError, ModuleNotFoundError):
        now = None
    if now != SIGNATURES[path]:
        change = "is gone" if now is None else f"takes ({now}), no longer ({SIGNATURES[path]})"
        pytest.fail(f"{release(package)}: {path} {change}; {found_overrides().get(path)} overrides it", pytrace=False)


def test_the_search_finds_every_kind_of_use():
    names = Names(
        ast.parse(
            "import a._b\nfrom torch._c import d\nclass E:\n  def _f(self): self._g = x._h\n"
            "getattr(x, '_i'); y['_j']; call(_k=1); x.__dict__; super()._l(); os._exit(1); call('_m')"
        )
    )
    assert names.attributes.keys() == {"_b", "_c", "_h", "_k", "_l"}
    assert names.keys.keys() == {"_i", "_j"}
    assert {"_f", "_g", "E"} <= names.own
