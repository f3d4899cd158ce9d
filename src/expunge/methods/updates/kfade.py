"""K-FADE: climb the forget loss the way that changes what the model says of the rows to retain the least, in one step or a few.

The retain rows are asked once, for the curvature of their outputs layer by layer; after that a step sees rows to forget alone. What it
added to the weights can be added again where the model has been trained further.

Equation: theta <- theta + alpha (G + mu I)^-1 g_f, g_f the gradient of NLL on all forget rows, G the Fisher information of the retain rows,
  of each layer alone, a label, with labels drawn from the model; KL on the retain rows is about 1/2 d^T G d, so that `step kl` has alpha =
  sqrt(2 epsilon / (k g_f^T (G + mu I)^-1 g_f)) in each of k steps; alpha = n_f/n_r: the influence-function estimate of retraining
Source: McKinney et al. 2026, arXiv 2602.10568; EK-FAC: George et al. 2018, arXiv 1806.03884
Needs: forget, retain; the extra `kronecker` (kronfluence); linear or convolutional layers; as an update any objective with a forget term
Cost: once two forwards and backwards of retain rows (K-FAC: one) and three squares a layer; a forward and backward of the forget rows a
  step, and a forward of a few retain rows
Differs: `step fixed` is the paper's; lengths by KL, the check of it (a step is halved, five times at most, while twice the prediction is
  exceeded), damping by layer, which float32 and few rows call for, the layers that move and k are ours; EK-FAC is the default, where the
  paper's main runs have K-FAC; units are those of a label, so that alpha is not comparable with the paper's; factors are fitted once; rows
  of one length share a forward, as padding must not count
Status: faithful
"""

from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.needs import Need
from expunge.core.parts import Edit, GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.engine.estimators.kfac import Strategy, layers
from expunge.engine.weights import put, tensors_of
from expunge.methods.gradients import Gradient, dot, on_role
from expunge.methods.terms import Ascent

HALVINGS = 5


def precondition(gradient: Tensor, factors: State, damping: float, share: float = 0.0) -> Tensor:
    """The damped inverse curvature of a layer times a gradient (out, in). factors: values, and outputs and inputs, as `View.kronecker` has
    them. share: of the mean curvature, that is added to the damping.
    """
    values, outputs, inputs = (factors[n].to(gradient) if n in factors else None for n in ("values", "outputs", "inputs"))
    assert values is not None
    damped = values + damping + share * values.mean()
    if outputs is None or inputs is None:
        return gradient / damped
    return outputs @ ((outputs.T @ gradient @ inputs) / damped) @ inputs.T


@part
class GaussNewton(Update):
    """Multiply the gradient of one role by the inverse of the curvature of the retain rows, which is fitted before the first step."""

    role: str = "forget"
    step: Literal["kl", "fixed"] = "kl"
    curvature: Strategy = hp("ekfac", "form of the curvature: Kronecker products, with their own or corrected eigenvalues, or diagonal")
    epsilon: float = hp(0.02, "KL a label on the retain rows that all steps together may make, in nats; unused where fixed", gt=0)
    damping: float = hp(1e-8, "added to every curvature", ge=0)
    share: float = hp(0.1, "damping that is added by layer, as a share of its mean curvature", ge=0)
    samples: int = hp(1000, "retain rows that the curvature is estimated on, at most", ge=1)
    draws: int = hp(1, "labels drawn for each that a retain row has; 0: every class, which is exact for classifiers", ge=0)
    check: int = hp(32, "retain rows that the KL of a step is measured on, at most; 0: it is not. Unused where fixed", ge=0)
    reads = frozenset({"retain"})
    requires = frozenset({Categorical})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({Need.FISHER, Need.REFERENCE} if self.step == "kl" and self.check else {Need.FISHER})

    def roles(self) -> frozenset[str]:
        return frozenset({self.role})

    def begin(self, view: View) -> State:
        drawn = torch.randperm(len(view.retain), generator=view.rng())[: self.samples].tolist()
        return view.kfac(view.retain.select(drawn), self.curvature, self.draws)

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def uphill() -> Gradient:
            value, gradient = grads(self.role)
            way = self._way(step, gradient)
            alpha = self._length(step, way, float(dot(gradient, way))) if self.step == "kl" else 1.0  # fixed: the learning rate
            return value, [alpha * w for w in way]

        return on_role(grads, self.role, uphill)

    def _way(self, step: Step, gradient: list[Tensor]) -> list[Tensor]:
        """The gradient by layers, preconditioned; nothing elsewhere."""
        way = [torch.zeros_like(g) for g in gradient]
        for layer in layers(step.model, step.modality):
            factors = {n: step.state[key] for n in ("values", "outputs", "inputs") if (key := f"{layer.path}/{n}") in step.state}
            whole = gradient[layer.weight].flatten(1)
            if factors["values"].shape[1] > whole.shape[1]:
                whole = torch.cat([whole, (whole[:, :1] * 0 if layer.bias is None else gradient[layer.bias][:, None])], 1)
            found = precondition(whole, factors, self.damping, self.share)
            weight = gradient[layer.weight]
            way[layer.weight] = found[:, : weight[0].numel()].reshape(weight.shape)
            if layer.bias is not None:
                way[layer.bias] = found[:, -1]
        return way

    def _length(self, step: Step, way: list[Tensor], along: float) -> float:
        """The length of a step of so much KL, halved while retain rows see more than twice as much."""
        alpha = (2 * self.epsilon / (step.total * max(along, 1e-30))) ** 0.5
        budget = self.epsilon * (step.done + 1) / step.total
        for _ in range(HALVINGS if self.check else 0):
            if self._divergence(step, way, alpha) <= 2 * budget:
                break
            alpha /= 2
        return alpha

    def _divergence(self, step: Step, way: list[Tensor], alpha: float) -> float:
        """KL a label of the model at the start from the model after a step, on some retain rows."""
        rows = step.retain.select(range(min(self.check, len(step.retain))))
        moving = {n: p.detach() for n, p in step.model.named_parameters() if p.requires_grad}
        new = step.under({n: p - alpha * w for (n, p), w in zip(moving.items(), way, strict=True)}, rows).log_probs.values
        old = step.reference(rows).log_probs.values
        return float((old.exp() * (old - new)).sum(-1).mean())


@part
class Again(Edit):
    """Add what an earlier run changed to the weights of a model that was trained further since."""

    before: str = hp("", "folder of the model before that run")
    after: str = hp("", "folder of the model after it")
    scale: float = hp(1.0, "how much of the change is added")

    def apply(self, view: View) -> None:
        here = {n: t for n, t in tensors_of(view.model).items() if t.is_floating_point()}
        old, new = stored(self.before), stored(self.after)
        if missing := sorted(n for n in here if not (n in old and n in new and old[n].shape == new[n].shape == here[n].shape)):
            raise UserError(f"the models before and after are not of this one's kind: {missing[0]!r} is not the same in all of them")
        put(view.model, {n: t + self.scale * (new[n] - old[n]).to(t) for n, t in here.items()})


def stored(folder: str) -> Weights:
    """The weights in the folder of a model or of a run. Errors: UserError where there are none."""
    from safetensors.torch import load_file

    files = sorted((Path(folder) / "model").glob("*.safetensors")) or sorted(Path(folder).glob("*.safetensors")) if folder else []
    if not files:
        raise UserError(f"there are no weights in {folder!r}: give --before and --after, folders of the model before that run and after it")
    return {n: t for file in files for n, t in load_file(file).items()}


def plan(
    step: Annotated[
        Literal["kl", "fixed", "again"], "length of a step: by KL on retain rows, or the learning rate; again: what an earlier run did"
    ] = "kl",
) -> Plan:
    if step == "again":
        return Plan(Again())
    steps, lr = (4, 1.0) if step == "kl" else (1, 5e-3)
    train = Train(epochs=0, steps=steps, lr=lr, batch_size=10**6, micro_batch_size=32, optimizer="sgd", schedule="constant")
    return Plan(Ascent(), train=train, updates=(GaussNewton(step=step, share=0.1 if step == "kl" else 0.0),))
