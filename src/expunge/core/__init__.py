"""The algebra of parts and the one loop that runs it. Knows no method, metric or modality by name."""
