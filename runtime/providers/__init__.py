"""Execution providers: which there are, which really start, and what TensorRT needs."""
