"""Families of scores: one file each, a docstring card and `scores(evidence)`."""
