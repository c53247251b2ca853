"""A bundle on disk: its manifest, and the configs that other libraries read."""
