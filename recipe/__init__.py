"""The parts of the recipe, one noun a file; README.md shows how the data goes through them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout: configs, metrics and scripts lie here
