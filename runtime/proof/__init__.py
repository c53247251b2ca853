"""Proof of a graph, the cost of an approximation, and the verdict over both."""
