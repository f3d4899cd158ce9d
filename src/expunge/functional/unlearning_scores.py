"""Scores of a whole model that has forgotten, from numbers of which each is a mean over many items."""

from __future__ import annotations

CHANCE = 0.5  # accuracy of an attack that cannot tell forgotten items from unseen ones, as many of each


def forgetting_score(attack_accuracy: float) -> float:
    """Distance of a membership attack's accuracy (0 to 1) from chance: 0 is best, 0.5 worst.

    Also below chance: forgotten items that stand out as unlike unseen ones give themselves away. Source: arXiv 2311.02240.
    """
    return abs(attack_accuracy - CHANCE)


def nomus(utility: float, attack_accuracy: float, weight: float = 0.5) -> float:
    """Normalized Machine Unlearning Score: utility and forgetting in one number, from 0 to 1, higher is better.

    utility: accuracy on test items, 0 to 1. attack_accuracy: of a membership attack on forgotten against unseen items, 0 to 1.
    weight: of the utility; the rest is that of forgetting. Source: arXiv 2311.02240.
    """
    return weight * utility + (1 - weight) * (1 - forgetting_score(attack_accuracy) / CHANCE)
