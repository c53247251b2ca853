"""`python -m foldrank` is the `foldrank` command."""

from foldrank.cli.main import main

main()
