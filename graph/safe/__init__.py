"""Load a graph that a stranger wrote: wire format, laws, external data."""
