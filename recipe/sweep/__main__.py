"""python -m recipe.sweep: see recipe/sweep/sweep.py."""

if __name__ == "__main__":
    import sys

    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line
    from recipe.sweep import fork_server

    if "ray" not in sys.argv:  # Ray starts its own workers
        fork_server.start()

from recipe.cli.program import run_script
from recipe.sweep.sweep import main

run_script(main)
