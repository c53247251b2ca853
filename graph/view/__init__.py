"""The decoder view: blocks with roles, branches and heads, whoever wrote the graph."""
