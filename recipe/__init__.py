"""The parts of the recipe, one noun a file; DESIGN in README.md shows how the data goes through them."""
