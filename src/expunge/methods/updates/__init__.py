"""Updates: how gradients become optimizer steps."""
