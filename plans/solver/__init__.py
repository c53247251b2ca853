"""The parts of `auto`: costs, layouts, predicted and measured losses, moves, the search, and the fit of a block."""
