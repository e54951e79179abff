"""The rows of the chaos suite that rerun default tests still select some in each of their files."""

import ast
import re

from toy import REPOSITORY


def rows() -> dict[str, tuple[str, str]]:
    """ROWS of tests/chaos/test_outside.py, read without importing the suite."""
    tree = ast.parse((REPOSITORY / "tests" / "chaos" / "test_outside.py").read_text())
    return next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROWS"
    )


def test_every_row_selects_tests_in_each_of_its_files():
    empty = []
    for number, (_, selection) in rows().items():
        files, _, expression = selection.partition(" -k ")
        for file in files.split():
            names = re.findall(r"^def (test_\w+)", (REPOSITORY / "tests" / file).read_text(), re.MULTILINE)
            if not any(part in name for name in names for part in expression.split(" or ")):
                empty.append(f"{number}: -k {expression!r} selects nothing in tests/{file}")
    assert not empty, "\n".join(["update ROWS in tests/chaos/test_outside.py:", *empty])
