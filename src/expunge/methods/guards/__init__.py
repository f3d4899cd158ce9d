"""Wrappers at inference time; the weights stay as they are."""
