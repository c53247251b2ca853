"""Writes that appear whole or not at all, and what an interrupted run left."""
