"""Which blocks leave: windows that merge, blocks that drop, and how alike two models' outputs are."""
