"""Bad teacher: learn from an untrained model on the rows to forget, and from the original model on some retain rows.

The method uses no labels, and a single pass is enough: a teacher that knows nothing shows how a model without the knowledge answers.

Equation: L = mean KL(q(x) || p(x)) at temperature T; q(x) the untrained teacher's distribution on forget rows, the reference's on retain
  rows; a pass goes over the forget rows and a share of the retain rows, shuffled together
Source: Chundawat et al. 2022, arXiv 2205.08096
Needs: forget, retain; the reference; the weights of an untrained model
Cost: one forward and backward and two teacher forwards of the rows of a pass: forget rows and 30 % of retain rows; two more sets of weights
Differs: KL is a mean over labels; the authors' code also divides by the number of classes, which changes SGD but not Adam
Status: shown
"""

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.functional.packed import kl
from expunge.methods.terms import Mix


@part
class TwoTeachers(Objective):
    """KL from the teacher of each row: an untrained model for rows to forget, the reference for the other rows."""

    temperature: float = hp(1.0, "temperature of teachers and student", gt=0)
    reads = frozenset({"mix"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})

    def begin(self, view: View) -> State:
        fresh = view.modality.fresh(view.model, seed=int(torch.randint(2**31, (1,), generator=view.rng())))
        return {n: w.to(view.params[0].device) for n, w in fresh.items()}

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("mix")
        outputs = step.now(rows), step.reference(rows), step.under(step.state, rows)
        student, competent, incompetent = (output.log_probs for output in outputs)
        forgets = torch.tensor(rows["forgets"], device=student.row.device)[student.row, None]
        teacher = torch.where(forgets, incompetent.values, competent.values)
        return step.mean(student.map(lambda logp: kl(teacher, logp, self.temperature)), rows)


def plan() -> Plan:
    train = Train(epochs=1, lr=1e-4, batch_size=256, optimizer="adam", schedule="constant", anchor="mix")
    return Plan(TwoTeachers(), train=train, selectors=(Mix(0.3),))
