"""python -m recipe.report: see recipe/report/page.py."""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from recipe.cli.program import run_script
from recipe.report.page import main

run_script(main)
