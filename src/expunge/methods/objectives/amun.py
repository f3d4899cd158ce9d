"""AmUn: train forgotten interactions as if they had been drawn as negatives, in batches with the retain rows.

The form of amnesiac unlearning that needs no record of the training. Studies of recommenders compare with it under this name.

Equation: L = NLL(x, y~) on forget rows + NLL(x, y) on retain rows, batches from both; y~ the class of a negative: under a pointwise loss
  -log(1 - sigmoid(s_i)), under BPR -log sigmoid(s_j - s_i), the comparison turned round; y~ is drawn once among the classes but y
Source: Graves et al. 2021, Amnesiac machine learning, arXiv 2010.10981, as a baseline of recommenders (arXiv 2405.15328)
Needs: forget, retain, alternate answers (both classes, where the request brings none)
Cost: one forward and backward of a batch of both sets; an epoch is one pass over all rows
Differs: reconstructed: the studies do not say which form of amnesiac unlearning they run, nor its settings, so epochs are few and the
  learning rate is that of training; negatives of a forgotten row are turned with it. The form that takes recorded steps back is the
  by-design method `amnesiac`; AMUN by adversarial examples (arXiv 2503.00917) is another method
Status: shown
"""

from dataclasses import replace

from expunge.core.plan import Plan, Train
from expunge.methods.objectives import random_labels


def plan() -> Plan:
    train = Train(epochs=5, lr=1e-3, batch_size=1024, optimizer="adam", schedule="constant", anchor="mix")
    return replace(random_labels.plan("amnesiac"), train=train)
