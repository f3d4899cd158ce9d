"""SCRUB: a student alternately moves away from its teacher on the forget rows and back to it on the retain rows.

The teacher is the original model. Passes over the forget rows alternate with repairing passes over the retain rows; the last passes only
repair. `rewind` (SCRUB+R) ends with the epoch at which the model is as wrong on the forget rows as on unseen rows, because an error that
is too high also reveals that something was removed.

Equation: forget pass: L = -T^2 KL(p_ref || p); retain pass: L = gamma NLL + alpha T^2 KL(p_ref || p); p softened by T; `rounds` forget
  passes, each before a retain pass; rewind: argmin over epochs k of |error_k(forget) - error_last(holdout of the same classes)|
Source: Kurmanji et al. 2023, arXiv 2302.09880
Needs: forget, retain; the reference; with rewind holdout rows of the classes to forget
Cost: one forward and backward and one reference forward of the rows of a pass; with rewind one copy of the weights an epoch, and one
  forward of the forget rows an epoch at the end
Differs: `epochs` and `lr_milestones` count passes over either set, while the authors count a pair as one epoch; both sets share one batch
  size (the authors use 32 for retain and 64 for forget rows on the small scale, 128 and 32 on the large); unseen rows are weighted so that
  their classes match those of the forget rows
Status: not shown
"""

from collections import Counter
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.engine.weights import put, trainable, weights_of
from expunge.functional.packed import kl
from expunge.methods.terms import NLL, SetTerm, Turns, hits

Scale = Literal["small", "large", "privacy"]


@part
class Distill(SetTerm):
    """KL(reference || model) over a set at a temperature T, times T^2. With sign -1 the student moves away from the teacher."""

    over: Literal["forget", "retain"] = "retain"
    sign: float = 1.0
    temperature: float = hp(4.0, "temperature of teacher and student", gt=0)
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        teacher, student = step.reference(rows).log_probs, step.now(rows).log_probs
        divergence = student.map(lambda logp: kl(teacher.values, logp, self.temperature))
        return self.sign * self.temperature**2 * step.mean(divergence, rows)


@part
class Rewind(Update):
    """Ends with the weights whose error on the forget rows is nearest to the last model's error on unseen rows of the same classes.

    It saves the weights after each pass over the retain rows.
    """

    reads = frozenset({"forget", "holdout"})
    requires = frozenset({Categorical})

    def begin(self, view: View) -> State:
        self._class_weights(view)  # fail before the first step, not after the last
        return self._snapshot(view, 0)

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads.call

    def after(self, step: Step) -> State:
        return {**step.state, **self._snapshot(step, step.epoch + 1)} if "retain" in step.batch else step.state

    def end(self, view: View) -> None:
        unseen_error = 1 - float(self._class_weights(view) @ hits(view, "holdout"))
        errors: dict[int, float] = {}
        for epoch in sorted({int(name.split("/")[0]) for name in view.state}):
            self._restore(view, epoch)
            errors[epoch] = 1 - float(hits(view, "forget").mean())
        best = min(errors, key=lambda epoch: abs(errors[epoch] - unseen_error))
        self._restore(view, best)
        view.warn(
            f"went back to the weights after pass {best} of {max(errors)}: forget error {errors[best]:.3f}, unseen error {unseen_error:.3f}"
        )

    def _class_weights(self, view: View) -> Tensor:
        """Weights of the unseen rows, (rows,), that give them the class frequencies of the forget rows.

        Raises:
            UserError: when no unseen row has a class of the forget rows.
        """
        forget, unseen = view.modality.answer_texts(view.forget), view.modality.answer_texts(view.rows("holdout"))
        forget_counts, unseen_counts = Counter(forget), Counter(unseen)
        weights = torch.tensor([forget_counts[label] / unseen_counts[label] for label in unseen])
        if not weights.sum():
            raise UserError(
                "to rewind, SCRUB compares with unseen rows of the classes to forget, and no holdout row is of such a class: "
                "add such rows, or leave `rewind` out"
            )
        return weights / weights.sum()

    def _snapshot(self, view: View, epoch: int) -> State:
        return {f"{epoch}/{name}": w for name, w in weights_of(view.model, trainable(view.model)).items()}

    def _restore(self, view: View, epoch: int) -> None:
        put(view.model, {name.removeprefix(f"{epoch}/"): w for name, w in view.state.items() if name.startswith(f"{epoch}/")})


def plan(
    scale: Annotated[Scale, "published settings: for small models and data sets, for large ones, or for the privacy experiments"] = "small",
    rewind: Annotated[bool, "end with the pass at which the error on forget rows matches that on unseen rows (SCRUB+R)"] = False,
) -> Plan:
    sgd = Train(lr=5e-4, batch_size=128, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant", anchor="retain")
    epochs, rounds, temperature, gamma, alpha, milestones, train = {
        "small": (10, 3, 2.0, 1.0, 0.5, (5, 8, 9), replace(sgd, batch_size=32, optimizer="adam", momentum=0.0, weight_decay=0.1)),
        "large": (3, 2, 4.0, 0.99, 0.001, (3, 5, 9), sgd),
        "privacy": (5, 3, 4.0, 1.0, 0.5, (3, 5, 9), sgd),
    }[scale]
    follow, leave = Distill("retain", 1.0, temperature), Distill("forget", -1.0, temperature)
    passes = replace(train, epochs=epochs + rounds, lr_milestones=tuple(e + min(e, rounds) for e in milestones))
    return Plan(
        leave + gamma * NLL("retain") + alpha * follow,
        train=passes,
        selectors=(Turns(rounds),),
        updates=(Rewind(),) if rewind else (),
    )
