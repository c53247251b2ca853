"""A plan on disk: the document, its factors, and both as one object."""
