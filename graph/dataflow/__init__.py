"""What flows where: cache pairs, order, boundaries of blocks, and what repeats."""
