"""Selectors: which rows a method sees, with which weights, labels and answers."""
