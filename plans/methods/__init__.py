"""One file for each method that `--method` names, with its paper."""
