"""Needs: what a part asks the run for beyond rows, at a cost."""

from enum import StrEnum


class Need(StrEnum):
    """A cost that a part asks the run to pay. The name of an earlier stage is also a need: the run then keeps that stage's model."""

    REFERENCE_LOGP = "reference_logp"  # reference losses of rows that exist before step 1: cached, no second model
    REFERENCE = "reference"  # any output of the reference, also for rows made later: the run keeps a copy of the trainable tensors
    BATCH_MEANS = "batch_means"  # the loss is not linear in `step.mean`: gradient accumulation costs one more forward pass
    SAME_LABELS = "same_labels"  # the labels of a row are the same in every step, because the part keeps a number for each
    EXAMPLE_GRADS = "example_grads"
    FISHER = "fisher"
