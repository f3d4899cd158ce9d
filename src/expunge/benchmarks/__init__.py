"""Benchmarks, one file each: the source of the data, what is to be forgotten, and the published results."""
