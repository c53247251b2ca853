"""Rounding to few bits that knows what it rounds: the error it makes is measured under the inputs' Gram matrix."""
