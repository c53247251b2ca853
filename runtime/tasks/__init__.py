"""Small tasks made from the held-out text, and what a bundle does at them beside its dense one."""
