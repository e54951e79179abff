"""python -m recipe.compare: see recipe/compare/differences.py."""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from recipe.cli.program import run_script
from recipe.compare.differences import main

run_script(main)
