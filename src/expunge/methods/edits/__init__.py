"""One-shot changes of the weights."""
