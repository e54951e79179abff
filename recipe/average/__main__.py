"""python -m recipe.average: see recipe/average/averaging.py."""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from recipe.average.averaging import main
from recipe.cli.program import run_script

run_script(main)
