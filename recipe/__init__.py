"""The parts of the recipe, one noun a file; README.md shows how the data goes through them."""
