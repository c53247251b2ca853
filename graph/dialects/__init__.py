"""How each exporter writes a decoder: one file per dialect."""
