"""`python -m expunge`."""

from .cli import main

main()
