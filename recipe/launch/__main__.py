"""Entry point of python -m recipe.launch; see recipe/launch/torchrun.py."""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

import sys

from recipe.launch.torchrun import main

sys.exit(main())
