"""`python -m runner` is the same as `runner`."""

from runner.cli import main

main()
