"""Truncated decompositions: Grams, whitening, factors, and how many ranks each site gets."""
