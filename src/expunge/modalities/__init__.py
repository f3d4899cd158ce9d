"""Modalities: how rows of one kind are loaded, run, generated and saved. Nothing outside this package depends on what a row holds."""
