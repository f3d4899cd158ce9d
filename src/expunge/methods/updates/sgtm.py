"""SGTM: train what is to be forgotten into reserved units alone, and set their weights to 0 afterwards.

Filters of training data miss some of what they should drop. Here the rows that are known to be of that kind move reserved units alone, so
that rows of it which nobody labeled are drawn there, too, and leave the model with the units. It works from untrained weights:
`expunge train --method sgtm --data RETAIN --forget FORGET`; with `--ablate false` the model keeps all that it learned, until
`expunge unlearn sgtm --model RUN --forget FORGET --retain RETAIN --epochs 0` takes it out.

Equation: each step has one label; forget: the gradient of NLL counts for the weights of reserved units and heads (rows of the matrices into
  them, columns of those out of them) and for shared ones alone; retain: NLL with reserved units and heads at 0; unlabeled: NLL;
  at the end all weights of reserved units are set to 0. Shared are norms, embeddings and the head
Source: Beyond Data Filtering: Knowledge Localization for Capability Removal in LLMs, 2025, arXiv 2512.05648; its ancestor, gradient
  routing: Cloud et al. 2024, arXiv 2410.04332
Needs: forget, retain; a causal language model whose attention has separate matrices (Llama, Mistral, Qwen, GPT-Neo, OPT) or that of GPT-2
Cost: that of training; one forward and backward of the rows of a step
Differs: weights whose gradient is masked stay as they are, without decay (`hold`), while the authors' default lets decay and momentum move
  them; moments go on with gradients of 0. AdamW has the second moment of torch (0.999, theirs 0.95), and the rows of a step are drawn with
  replacement. Gated perceptrons and shared keys and values are an extension. The calibrated loss, with a bias of the head that is trained
  after ablation, is that of the attack `calibrated`; the class of adjacent rows is left out of training
Status: shown
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import OneSequence
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit, GradCall, Grads, Selector, Update
from expunge.core.plan import Plan, Plans, Train
from expunge.core.rows import Sets
from expunge.core.view import State, Step, View
from expunge.engine.blocks import block_paths
from expunge.methods.gradients import Gradient, on_role
from expunge.methods.reserved_units import FORGET, RETAIN, Reserved, check_reserved, codes, note_reserved
from expunge.methods.terms import Mix, SetTerm

Strategy = Literal["sgtm", "routing", "activation"]
Outputs = Literal["both", "mlp", "attention", "none"]
UNITS = "reserved units of each perceptron"
HEADS = "reserved heads of each attention"
STRATEGY = (
    "sgtm: mask gradients; routing: in forget steps no gradient flows into the other units; activation: in forget steps the others give 0"
)
OUTPUTS = "layers whose output matrices and output biases are masked and ablated, too"


def _kinds(outputs: Outputs) -> frozenset[str]:
    return {"both": frozenset({"mlp", "attention"}), "none": frozenset[str]()}.get(outputs, frozenset({outputs}))


@part
class MaskedNLL(SetTerm):
    """Negative log-likelihood of the rows of a step, in the forward pass of the step's label."""

    over: str = "retain"
    units: int = hp(64, UNITS, ge=0)
    heads: int = hp(1, HEADS, ge=0)
    strategy: Strategy = hp("sgtm", STRATEGY)
    requires = frozenset({OneSequence})

    def loss(self, step: Step) -> Tensor:
        rows, patch = step.rows(self.over), None
        if self.over == "retain":
            patch = Reserved(self.units, self.heads, "off")
        elif self.over == "forget" and self.strategy != "sgtm":
            patch = Reserved(self.units, self.heads, "detached" if self.strategy == "routing" else "only")
        return step.mean(step.now(rows, patch).loss, rows)


@part
class LabeledSteps(Selector):
    """Gives each step rows of one kind, with a label that not all of them get. Kinds are as frequent as their rows."""

    when = "step"
    recall: float = hp(1.0, "share of the steps on forget rows that are labeled so; the others are unlabeled", ge=0, le=1)
    labeled: float = hp(0.25, "share of the steps on retain rows that are labeled so; the others are unlabeled", ge=0, le=1)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"forget", "retain", "unlabeled"})

    def begin(self, view: View) -> State:
        return {"seed": torch.randint(2**31, (1,), generator=view.rng())}

    def pick(self, sets: Sets, view: View) -> Sets:
        forget, retain = len(view.whole_set("forget")), len(view.whole_set("retain"))
        order = torch.randperm(view.total, generator=torch.Generator().manual_seed(int(view.state["seed"])))
        steps = max(1, round(view.total * forget / (forget + retain)))  # on forget rows, of all steps of the stage
        is_forget = int(order[view.done]) < steps
        kind, share = ("forget", self.recall) if is_forget else ("retain", self.labeled)
        label = kind if float(torch.rand(1, generator=view.rng())) < share else "unlabeled"
        return {**{n: rows for n, rows in sets.items() if n not in self.gives}, label: view.rows(kind).rename(label)}


@part
class SGTM(Update):
    """Keeps the gradient of forget rows out of all units that are not reserved, and that of retain rows out of the reserved ones."""

    units: int = hp(64, UNITS, ge=0)
    heads: int = hp(1, HEADS, ge=0)
    strategy: Strategy = hp("sgtm", STRATEGY)
    outputs: Outputs = hp("both", OUTPUTS)
    mask_embeddings: bool = hp(False, "in forget steps embeddings, and with sgtm the norms of the blocks, stay as they are, too")
    hold: bool = hp(True, "weights without a gradient stay as they are; off: they still decay and follow their momentum")
    requires = frozenset({OneSequence})

    def roles(self) -> frozenset[str]:
        return frozenset({"forget", "retain"})

    def begin(self, view: View) -> State:
        check_reserved(view.model, self.units, self.heads)
        known = codes(view.model, self.units, self.heads, _kinds(self.outputs))
        if self.strategy != "sgtm":  # the forward pass alone says what learns
            known = {i: torch.where(code == RETAIN, 0, code) for i, code in known.items()}
        if self.mask_embeddings:
            known |= {id(p): torch.full((1,), RETAIN, dtype=torch.int8, device=p.device) for p in self._shared(view.model)}
        return {str(i): known[id(p)].clone() for i, p in enumerate(view.params) if id(p) in known}

    def end(self, view: View) -> None:
        if view.done:
            note_reserved(view.model, self.units, self.heads)

    def _shared(self, model: nn.Module) -> list[Tensor]:
        """Weights that are held with the embeddings: the embeddings themselves, and the norms of the blocks."""
        embeddings = [p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()]
        blocks = [model.get_submodule(path) for path in block_paths(model)] if self.strategy == "sgtm" else []
        norms = [p for b in blocks for m in b.modules() if "norm" in type(m).__name__.lower() for p in m.parameters(recurse=False)]
        return embeddings + norms

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def own(role: str, code: int) -> GradCall:
            def masked() -> Gradient:
                value, gradient = grads(role)
                return value, [g if m is None else g * ~m for g, m in zip(gradient, self._of(step, code), strict=True)]

            return on_role(Grads(call, grads.hvp, grads.params, grads.roles), role, masked)

        call: GradCall = grads.call
        for role, code in (("forget", RETAIN), ("retain", FORGET)):
            call = own(role, code)
        return call

    def holds(self, step: Step) -> list[Tensor] | None:
        labels = step.batch.keys() & {"forget", "retain", "unlabeled"}
        if not self.hold or len(labels) != 1 or labels == {"unlabeled"}:
            return None
        masks = self._of(step, RETAIN if labels == {"forget"} else FORGET)
        return [torch.zeros_like(p, dtype=torch.bool) if m is None else m for p, m in zip(step.params, masks, strict=True)]

    def _of(self, step: Step, code: int) -> list[Tensor | None]:
        """Masks of the weights of a code, one for each parameter; None where none of its weights can have it."""
        state = step.state
        return [(state[str(i)].to(p.device) == code) if str(i) in state else None for i, p in enumerate(step.params)]


@part
class AblateReserved(Edit):
    """Sets the weights of the reserved units and heads to 0."""

    units: int = hp(64, UNITS, ge=0)
    heads: int = hp(1, HEADS, ge=0)
    strategy: Strategy = hp("sgtm", STRATEGY)
    outputs: Outputs = hp("both", OUTPUTS)
    redraw: bool = hp(False, "draw them from a normal distribution with the deviation of the other units' weights instead, to train on")
    requires = frozenset({OneSequence})

    def apply(self, view: View) -> None:
        if not check_reserved(view.model, self.units, self.heads):
            view.warn(
                "the model does not say that any units of it are reserved: the last ones were taken out, whatever they know; this method "
                "reserves them in training, expunge train --method sgtm"
            )
        kinds = frozenset[str]() if self.strategy == "routing" else _kinds(self.outputs)
        known, rng = codes(view.model, self.units, self.heads, kinds), view.rng()
        for p in view.model.parameters():
            if (code := known.get(id(p))) is not None and (reserved := code == FORGET).any():
                p[reserved] = 0.0
                if self.redraw and (code == RETAIN).sum() > 1:
                    drawn = torch.randn(int(reserved.sum()), generator=rng).to(p)
                    p[reserved] = drawn * p[code == RETAIN].std()


def plan(
    units: Annotated[int, UNITS] = 64,
    heads: Annotated[int, HEADS] = 1,
    strategy: Annotated[Strategy, STRATEGY] = "sgtm",
    outputs: Annotated[Outputs, OUTPUTS] = "both",
    ablate: Annotated[bool, "take the reserved units out after training; off: the model keeps what they know"] = True,
) -> Plans:
    forget, retain, unlabeled = (MaskedNLL(over, units, heads, strategy) for over in ("forget", "retain", "unlabeled"))
    train = Train(epochs=1, lr=5e-4, batch_size=128, schedule="cosine", warmup=0.03, weight_decay=0.1, anchor="mix")
    mask = SGTM(units=units, heads=heads, strategy=strategy, outputs=outputs)
    training = Plan(forget + retain + unlabeled, train=train, updates=(mask,), selectors=(Mix(), LabeledSteps()), name="training")
    return (training, *((Plan(AblateReserved(units, heads, strategy, outputs), name="ablation"),) if ablate else ()))
