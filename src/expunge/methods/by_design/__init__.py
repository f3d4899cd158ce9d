"""Exact unlearning: methods with a store of their own, from which rows are taken out."""
