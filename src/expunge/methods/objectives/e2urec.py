"""E2URec: two teachers for an adapter, one that knows the rows to forget less than the original, and the original itself for the others.

The forgetting teacher is the original with those logits lowered that an extra dose of the rows to forget raises. It was made for language
models that recommend, and works for every model with classes.

Equation: z_t = z_o - alpha relu(z_a - z_o), z_o of the original, z_a of a copy that was trained on the forget rows once more;
  L_FGT = -mean_forget sum_v softmax(z_t)_v log p_v; L_REM = NLL(retain) - mean_retain sum_v p_o,v log p_v; the first `forget_epochs` epochs
  minimize L_FGT, the others w L_REM + (1 - w) L_FGT
Source: Wang et al. 2024, arXiv 2403.03536
Needs: forget, retain; the reference, and the augmented model of the first stage
Cost: the training of the augmented model; then one forward and backward of forget and retain rows a step, one forward of the retain rows by
  the original, and two of the forget rows by the teachers
Differs: labels are averaged without padding, while the authors' code counts padded positions; the augmented model is an adapter, too, with
  a rate of its own, while the authors train all its weights (`--lora 0` trains all weights in both stages); an epoch of both sets is a
  pass over the forget rows; the authors stop by hand, after one forgetting epoch and 188 steps
Status: shown
"""

from typing import Annotated, ClassVar, Literal

from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector, Sum, Term
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import Step, View
from expunge.methods.terms import NLL, SetTerm

AUGMENTED = "augmented"
TARGETS = r".*\.(q|v|q_proj|v_proj|query|value)"  # queries and values of attention, as T5, Llama and BERT call them


def lowered(original: Tensor, augmented: Tensor, alpha: float) -> Tensor:
    """The forgetting teacher's logits: those that the augmented model raised are lowered, the others stay.

    Args:
        original, augmented: logits of both models, (labels, classes).
        alpha: how far; 0: the original's logits.
    """
    return original - alpha * (augmented - original).relu()


@part
class ForgettingTeacher(Objective):
    """Cross-entropy to the forgetting teacher."""

    alpha: float = hp(2.0, "how far the logits are lowered that an extra dose of the forget rows raises", ge=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE, AUGMENTED})

    def loss(self, step: Step) -> Tensor:
        rows = step.forget
        original, augmented = step.reference(rows).logits.values, step.other(AUGMENTED)(rows).logits.values
        teacher = lowered(original, augmented, self.alpha).softmax(-1)
        return step.mean(step.now(rows).log_probs.map(lambda logp: -(teacher * logp).sum(-1)), rows)


@part
class RememberingTeacher(SetTerm):
    """Likelihood of the labels, and cross-entropy to the original."""

    over: str = "retain"
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        teacher, output = step.reference(rows).log_probs.values.exp(), step.now(rows)
        return step.mean(output.loss, rows) + step.mean(output.log_probs.map(lambda logp: -(teacher * logp).sum(-1)), rows)


@part
class ForgetFirst(Selector):
    """Leaves the retain rows out of the first epochs."""

    when: ClassVar[Literal["epoch"]] = "epoch"
    forget_epochs: int = hp(1, "epochs over the forget rows alone, before both sets join", ge=0)
    reads = frozenset({"retain"})
    gives = frozenset({"retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        others = {name: rows for name, rows in sets.items() if name != "retain"}
        return others if view.epoch < self.forget_epochs else {**others, "retain": view.retain}


def plan(
    remember: Annotated[float, "w: weight of remembering in the epochs of both sets; forgetting has the rest"] = 0.6,
    forget_epochs: Annotated[int, "epochs over the forget rows alone, before both sets join"] = 1,
    augmented_lr: Annotated[float, "peak learning rate of the augmented model"] = 5e-5,
    augmented_epochs: Annotated[int, "passes of the augmented model over the forget rows"] = 2,
) -> tuple[Plan, Plan]:
    adapter = {"lora": 16, "lora_alpha": 32.0, "lora_dropout": 0.05, "lora_targets": TARGETS}
    both = Sum(
        (
            Term(lambda epoch: 1.0 if epoch < forget_epochs else 1.0 - remember, ForgettingTeacher()),
            Term(remember, RememberingTeacher()),
        )
    )
    return (
        Plan(
            NLL("forget"),
            train=Train(epochs=augmented_epochs, lr=augmented_lr, batch_size=16, weight_decay=0.01, **adapter),
            name=AUGMENTED,
        ),
        Plan(
            both,
            train=Train(epochs=3, lr=1e-3, batch_size=16, schedule="constant", weight_decay=0.01, **adapter),
            selectors=(ForgetFirst(forget_epochs),),
            start="original",
            reference="original",
        ),
    )
