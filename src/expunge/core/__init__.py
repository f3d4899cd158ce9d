"""Parts, plans and the protocols between them. This package knows no method, metric or modality by name."""
