"""What to build: the recipe, its file, and the datasets that it names."""
