"""Which rows, with which weights, labels and answers."""
