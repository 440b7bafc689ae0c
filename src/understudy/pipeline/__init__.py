"""From a recipe to a finished run: one class for each kind of recipe."""
