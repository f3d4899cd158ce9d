"""Small reference architectures, built from a configuration."""
