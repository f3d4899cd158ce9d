"""What to minimise."""
