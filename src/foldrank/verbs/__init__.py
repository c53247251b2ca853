"""The verbs: each a function that walks one arrow of DESIGN, importing what it needs inside."""
