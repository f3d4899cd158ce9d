"""Scores of an unlearned model as a whole, from numbers that are means over many items."""

from __future__ import annotations

CHANCE = 0.5  # accuracy of an attack that cannot distinguish equally many forgotten and unseen items


def forgetting_score(attack_accuracy: float) -> float:
    """Distance of a membership attack's accuracy (0 to 1) from chance: 0 is best, 0.5 worst.

    An accuracy below chance counts, too: forgotten items that differ from unseen ones give themselves away. Source: arXiv 2311.02240.
    """
    return abs(attack_accuracy - CHANCE)


def nomus(utility: float, attack_accuracy: float, weight: float = 0.5) -> float:
    """Normalized Machine Unlearning Score: utility and forgetting in one number, from 0 to 1, higher is better.

    Source: arXiv 2311.02240.

    Args:
        utility: accuracy on test items, 0 to 1.
        attack_accuracy: accuracy of a membership attack on forgotten against unseen items, 0 to 1.
        weight: weight of the utility; forgetting has the remaining weight.
    """
    return weight * utility + (1 - weight) * (1 - forgetting_score(attack_accuracy) / CHANCE)
