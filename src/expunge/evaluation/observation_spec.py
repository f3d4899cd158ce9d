"""What to look at in a model besides the loss of given answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObservationSpec:
    """What to look at; less is faster (scores during training want no gradients)."""

    generations: bool = True
    moments: bool = True
    gradient_norms: bool = True
    drafts: bool = True  # generation starts from what a reading proved; token by token the same
    features: bool = True


QUICK = ObservationSpec(generations=False, moments=False, gradient_norms=False, features=False)
