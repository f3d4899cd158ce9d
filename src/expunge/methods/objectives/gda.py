"""Ascent, then descent (GDA): alternate a pass of gradient ascent over the rows to forget with a pass of training on the retain rows.

Each descent pass repairs the damage of the ascent pass before it. After the first rounds, only descent passes follow.

Equation: epochs t = 1 .. T: where t <= rounds, one pass of L = -NLL(forget); then one pass of L = NLL(retain)
Source: as a baseline: Georgiev et al. 2024, arXiv 2410.23232
Needs: forget, retain
Cost: one forward and backward of the rows of a pass
Differs: `epochs` counts passes over either set, T + rounds; both sets share one batch size; T, rounds and the learning rate are from the
  middle of the published grids (T 5, 7 or 10; rounds 3 or 5; 5e-5 to 5e-3)
Status: undecided
"""

from expunge.core.plan import Plan, Train
from expunge.methods.terms import NLL, Ascent, Turns


def plan() -> Plan:
    train = Train(epochs=8, lr=5e-4, batch_size=64, optimizer="sgd", schedule="constant", anchor="retain")
    return Plan(Ascent() + NLL("retain"), train=train, selectors=(Turns(3),))
