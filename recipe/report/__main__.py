"""python -m recipe.report: see recipe/report/page.py."""

from recipe.cli.program import run_script
from recipe.report.page import main

run_script(main)
