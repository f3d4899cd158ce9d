"""What costs something besides rows."""

from __future__ import annotations

from enum import StrEnum


class Need(StrEnum):
    """A cost that a part asks the run to pay. The name of an earlier stage is a need too: the run then keeps that stage's model."""

    REFERENCE_LOGP = "reference_logp"  # losses of rows that exist before step 1: cached, no second model
    REFERENCE = "reference"  # any output of the reference, also about rows made later: the trainable tensors are kept twice
    BATCH_MEANS = "batch_means"  # the loss is not linear in `step.mean`: gradient accumulation pays one more forward pass
    EXAMPLE_GRADS = "example_grads"
    FISHER = "fisher"
