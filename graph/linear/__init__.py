"""Linear maps in a graph: their matrices, the parts of packed ones, and the norms before them."""
