"""python -m recipe.sweep: see recipe/sweep/sweep.py."""

from recipe.cli.program import run_script
from recipe.sweep.sweep import main

run_script(main)
