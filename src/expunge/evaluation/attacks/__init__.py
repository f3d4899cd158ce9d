"""Attacks: probes read observations and define `scores(evidence)`; interventions change a model or its prompts before it is observed."""
