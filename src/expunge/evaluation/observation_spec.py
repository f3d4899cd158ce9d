"""What to observe in a model besides the loss of given answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObservationSpec:
    """What to observe; less is faster (scores during training need no gradients)."""

    generations: bool = True
    moments: bool = True
    gradient_norms: bool = True
    drafts: bool = True  # generation starts from tokens that a reading verified; the tokens are the same
    features: bool = True


QUICK = ObservationSpec(generations=False, moments=False, gradient_norms=False, features=False)
