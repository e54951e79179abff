"""The built-in corpus: the docstrings of installed packages, real English text on every machine."""

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from recipe.system.errors import UserError

PACKAGES = ("numpy", "scipy", "sklearn", "pandas")
MIN_CHARACTERS = 200


def versions() -> dict[str, str]:
    """The versions of the packages, which identify the text."""
    distributions = {"sklearn": "scikit-learn"}
    return {name: importlib.metadata.version(distributions.get(name, name)) for name in PACKAGES}


@cache
def docstrings() -> list[str]:
    """The docstrings of PACKAGES: about 12 million characters of English prose, read in about 13 s.

    Each docstring of more than MIN_CHARACTERS is one document. Duplicates and the packages' tests are left out.
    """
    found: dict[str, None] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(f"the built-in corpus needs {package}: run pip install -r requirements.txt")
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            if "tests" in path.parts:
                continue
            source = path.read_text(encoding="utf-8", errors="replace")
            if '"""' in source:
                found.update(dict.fromkeys(_docstrings_of(source)))
    return list(found)


def _docstrings_of(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a template, not Python
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) > MIN_CHARACTERS:
                yield text
