"""Many plans of one recipe: which there are, each made and judged in a process of its own, and the front of them."""
