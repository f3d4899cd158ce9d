"""Benchmarks, one file each: where the data comes from, who is to be forgotten, and what was published about it."""
