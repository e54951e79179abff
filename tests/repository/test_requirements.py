"""The bounds in pyproject.toml, the pins in requirements.txt and the imports of the code agree."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from toy import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNPINNED = {"playwright", "tensorboard", "trackio", "mlflow"}  # a browser and trackers: tests use those that are there
# imported on demand, with a message that says what to install
OPTIONAL = {"mlflow", "ray", "sentencepiece", "torch_xla", "trackio"}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


BOUNDS = requirements([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])
PINS = requirements(
    [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
)


def test_every_bound_has_a_pin_and_every_pin_a_bound():
    assert PINS.keys() == BOUNDS.keys() - UNPINNED
    assert all([part.operator for part in pin.specifier] == ["=="] for pin in PINS.values())
    assert all(">=" in {part.operator for part in bound.specifier} for bound in BOUNDS.values())


def test_every_pin_satisfies_its_bound():
    unfit = [
        f"{pin} against {BOUNDS[name]}"
        for name, pin in PINS.items()
        for exact in pin.specifier
        if not BOUNDS[name].specifier.contains(exact.version)
    ]
    assert not unfit


def test_a_package_has_one_bound_in_all_lists():
    lists = [requirements(lines) for lines in (PROJECT["dependencies"], *EXTRAS.values())]
    assert all(found.get(name, bound).specifier == bound.specifier for found in lists for name, bound in BOUNDS.items())


def test_every_imported_package_has_a_bound():
    imported: dict[str, str] = {}
    for path in [*REPOSITORY.glob("*.py"), *(REPOSITORY / "recipe").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            imported.update({name.split(".")[0]: path.name for name in names})
    ours = {"recipe", *(path.stem for path in REPOSITORY.glob("*.py"))}
    others = imported.keys() - sys.stdlib_module_names - ours - OPTIONAL
    distributions = packages_distributions()
    needed = {canonicalize_name(distributions.get(name, [name])[0]): name for name in others}
    runtime = requirements(PROJECT["dependencies"])
    missing = {name: imported[module] for name, module in needed.items() if name not in runtime}
    assert not missing
