"""`python -m expunge`."""

from expunge.cli.app import main

main()
