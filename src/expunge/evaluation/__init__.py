"""Evidence that something was forgotten: observations of a model, the scores and attacks that read them, and the verdict."""
