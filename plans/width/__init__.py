"""Narrower MLPs: which channels stay, how many in each block, and what down makes of those."""
