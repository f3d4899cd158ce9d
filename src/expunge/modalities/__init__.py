"""One modality a modality: how rows are loaded, run, generated and saved. Nothing outside depends on what a row is."""
