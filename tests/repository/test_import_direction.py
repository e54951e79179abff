"""Imports in recipe/ go from higher packages to lower ones, and a package's __init__.py only describes it.

Imports inside functions count too. What isn't seen: importlib.import_module with a name made at run time.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import REPOSITORY

from recipe.finetune.suites import PACKAGES

# From the lowest to the highest: a package imports from itself and from those before it.
ORDER = (
    "system",
    "cli",
    "launch",
    "model",
    "data",
    "objective",
    "train",
    "average",
    "evaluate",
    "finetune",
    "compare",
    "report",
    "sweep",
    "programs",
)
SUITES = tuple(f"recipe.finetune.{name}" for name in PACKAGES)  # they share recipe.finetune, and nothing of each other
OUTSIDE = {"tests", *(path.stem for path in REPOSITORY.glob("*.py"))}  # scripts and tests, which import recipe
MOST_PARAGRAPHS = 2


def imports_of(text: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a module's source imports, at its top or in a function."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=aliases):
                yield from ((node.lineno, alias.name) for alias in aliases)
            case ast.ImportFrom(level=0, module=str(module), names=aliases):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in aliases)
            case ast.ImportFrom():
                yield node.lineno, "." * node.level + (node.module or "")
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def fault_of(importer: str, imported: str) -> str | None:
    """Why the module `importer` of recipe/ must not import `imported`; None where it may."""
    first, *rest = imported.split(".")
    if not first:
        return "is relative: write the full name, recipe...."
    if first in OUTSIDE:
        return "is a script or a test: recipe/ imports neither"
    if first != "recipe":
        return None
    own, other = importer.split(".")[1:2], rest[:1]
    if not other or other[0] not in ORDER:
        return f"is in none of the packages in ORDER: {', '.join(ORDER)}"
    if own and own[0] in ORDER and ORDER.index(other[0]) > ORDER.index(own[0]):
        return f"is in {other[0]}, which is above {own[0]}: move what both need to {own[0]} or below"
    suites = [
        next((suite for suite in SUITES if f"{name}.".startswith(f"{suite}.")), "") for name in (importer, imported)
    ]
    if all(suites) and suites[0] != suites[1]:
        return f"is another suite's: move what both need to {suites[0].rpartition('.')[0]}"
    return None


def faults_of_imports(root: Path) -> list[str]:
    """A line for each import in the package `recipe` below `root` that goes the wrong way."""
    faults = []
    for path in sorted((root / "recipe").rglob("*.py")):
        importer = ".".join(path.relative_to(root).with_suffix("").parts)
        for line, imported in imports_of(path.read_text()):
            if fault := fault_of(importer, imported):
                faults.append(f"{path.relative_to(root)}:{line} imports {imported}, which {fault}")
    return faults


def faults_of_packages(root: Path) -> list[str]:
    """A line for each folder below `root`/recipe that isn't in ORDER or lacks its description, and for modules in no package."""
    loose = sorted(path.name for path in (root / "recipe").glob("*.py") if path.name != "__init__.py")
    faults = [f"recipe/{name} is in no package: move it to the one it belongs to" for name in loose]
    for folder in sorted({path.parent for path in (root / "recipe").rglob("*.py")}):
        parts, name = folder.relative_to(root).parts, folder.relative_to(root)
        if len(parts) > 1 and parts[1] not in ORDER:
            faults.append(f"{name} is not in ORDER: put it between the packages it imports and those that import it")
        if not (folder / "__init__.py").exists():
            faults.append(f"{name} has no __init__.py: say there what goes in and what comes out")
            continue
        tree = ast.parse((folder / "__init__.py").read_text())
        paragraphs = (ast.get_docstring(tree) or "").strip().split("\n\n")
        if not paragraphs[0] or len(paragraphs) > MOST_PARAGRAPHS:
            count = len(paragraphs) if paragraphs[0] else 0
            faults.append(f"{name}/__init__.py has a docstring of {count} paragraphs, expected one or two")
        if len(tree.body) > bool(paragraphs[0]):
            faults.append(f"{name}/__init__.py holds code: move it to a module")
    return faults


def test_imports_go_down():
    faults = faults_of_imports(REPOSITORY)
    assert not faults, "\n".join(["imports in the wrong direction:", *faults])


def test_every_package_has_its_place_and_its_description():
    faults = faults_of_packages(REPOSITORY)
    assert not faults, "\n".join(["packages of recipe/:", *faults])
    there = {path.parent.name for path in (REPOSITORY / "recipe").glob("*/__init__.py")}
    assert set(ORDER) == there, f"ORDER lists packages that are gone: {', '.join(sorted(set(ORDER) - there))}"


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("system/x.py", "from recipe.cli import parser", "imports recipe.cli.parser, which is in cli, which is above system"),
        ("cli/x.py", "def f():\n    import recipe.sweep.jobs", "x.py:2 imports recipe.sweep.jobs, which is in sweep"),
        ("cli/x.py", "from importlib import import_module\nimport_module('recipe.train.trainer')", "x.py:2 imports recipe.train"),
        ("data/x.py", "if True:\n    from recipe import train", "imports recipe.train, which is in train, which is above data"),
        ("data/x.py", "from recipe.extra import y", "imports recipe.extra.y, which is in none of the packages"),
        ("data/x.py", "from recipe import y", "imports recipe.y, which is in none of the packages"),
        ("data/x.py", "from . import y", "is relative"),
        ("train/x.py", "from run_mlm import main", "imports run_mlm.main, which is a script or a test"),
        ("train/x.py", "import tests.mutations", "imports tests.mutations, which is a script or a test"),
        ("finetune/glue/x.py", "from recipe.finetune.qa import squad", "is another suite's: move what both need to recipe.finetune"),
        ("finetune/qa/x.py", "from recipe.finetune.glue.tasks import Task", "is another suite's"),
    ],
)  # fmt: skip
def test_an_import_in_the_wrong_direction_is_named_with_its_line(tmp_path, file, source, message):
    path = tmp_path / "recipe" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (fault,) = faults_of_imports(tmp_path)
    assert message in fault


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("sweep/x.py", "import recipe.system.errors, recipe.sweep.jobs\nfrom recipe.report import scores"),
        ("finetune/qa/x.py", "from recipe.finetune import tasks\nfrom recipe.finetune.qa.squad import TASKS"),
        ("launch/x.py", "import torch, runner\nfrom ray import train"),
    ],
)
def test_an_import_in_the_right_direction_passes(tmp_path, file, source):
    path = tmp_path / "recipe" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert not faults_of_imports(tmp_path)


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("extra/__init__.py", '"""Text."""', "recipe/extra is not in ORDER"),
        ("data/x.py", "", "recipe/data has no __init__.py"),
        ("x.py", "", "recipe/x.py is in no package"),
        ("data/__init__.py", "", "recipe/data/__init__.py has a docstring of 0 paragraphs"),
        ("data/__init__.py", '"""One.\n\nTwo.\n\nThree."""', "recipe/data/__init__.py has a docstring of 3 paragraphs"),
        ("data/__init__.py", '"""One."""\nimport os', "recipe/data/__init__.py holds code"),
    ],
)
def test_a_package_out_of_order_or_undescribed_is_named(tmp_path, file, source, message):
    path = tmp_path / "recipe" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "recipe" / "__init__.py").write_text('"""All."""')
    path.write_text(source)
    (fault,) = faults_of_packages(tmp_path)
    assert message in fault
