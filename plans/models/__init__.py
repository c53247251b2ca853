"""Decoders in PyTorch, block by block: what a checkpoint is read into, what is captured of it, and the reference."""
