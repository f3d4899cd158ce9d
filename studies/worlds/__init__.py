"""The worlds in which effects are measured, and the models that they share."""
