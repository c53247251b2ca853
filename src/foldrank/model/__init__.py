"""A model as it comes: its folder, its config's facts, its weights' files, where they are had."""
