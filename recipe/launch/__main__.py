"""Entry point of python -m recipe.launch; see recipe/launch/torchrun.py."""

import sys

from recipe.launch.torchrun import main

sys.exit(main())
