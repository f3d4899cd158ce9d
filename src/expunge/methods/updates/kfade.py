"""K-FADE: climb the forget loss in the direction that changes the outputs on the retain rows least, in one step or a few.

The method reads the retain rows once, to estimate the curvature of their outputs layer by layer. After that a step sees forget rows only.
The weight change of a run can be added again to a model that has been trained further.

Equation: theta <- theta + alpha (G + mu I)^-1 g_f, g_f the gradient of NLL on all forget rows, G the Fisher information of the retain rows,
  of each layer alone, a label, with labels drawn from the model; KL on the retain rows is about 1/2 d^T G d, so that `step kl` has alpha =
  sqrt(2 epsilon / (k g_f^T (G + mu I)^-1 g_f)) in each of k steps; alpha = n_f/n_r: the influence-function estimate of retraining
Source: McKinney et al. 2026, arXiv 2602.10568; EK-FAC: George et al. 2018, arXiv 1806.03884
Needs: forget, retain; the extra `kronecker` (kronfluence); linear or convolutional layers; as an update any objective with a forget term
Cost: once two forwards and backwards of retain rows (K-FAC: one) and three square matrices a layer; a forward and backward of the forget
  rows a step, and a forward of a few retain rows
Differs: `step fixed` is the paper's. We added step lengths by KL, the check of the KL (a step is halved while the KL is more than twice
  the prediction, and a run that cannot hold it ends), damping by layer, which float32 and few rows call for, the choice of layers, and k.
  EK-FAC is the default, while the paper's main runs use K-FAC. Units are those of a label, so alpha is not comparable with the paper's.
  Factors are fitted once. Only rows of equal length share a forward, because padding must not count
Status: shown
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

HALVINGS = 40  # a step of 1e-12 of the predicted one is none


def precondition(gradient: Tensor, factors: State, damping: float, share: float = 0.0) -> Tensor:
    """Multiply a layer's gradient by the layer's damped inverse curvature.

    Args:
        gradient: (outputs, inputs).
        factors: the entry `values`, (outputs, inputs), and, except for a diagonal curvature, the eigenvector matrices `outputs` and
            `inputs`, as `View.kfac` returns them.
        damping: number added to every curvature.
        share: share of the layer's mean curvature that is added to the damping.

    Returns:
        The preconditioned gradient, (outputs, inputs).
    """
    values, outputs, inputs = (factors[n].to(gradient) if n in factors else None for n in ("values", "outputs", "inputs"))
    assert values is not None
    damped = values + damping + share * values.mean()
    if outputs is None or inputs is None:
        return gradient / damped
    return outputs @ ((outputs.T @ gradient @ inputs) / damped) @ inputs.T


@part
class GaussNewton(Update):
    """Multiply the gradient of one role by the inverse curvature of the retain rows, which is fitted before the first step."""

    role: str = "forget"
    step: Literal["kl", "fixed"] = "kl"
    curvature: Strategy = hp(
        "ekfac", "form of the curvature: Kronecker products with their own (kfac) or corrected (ekfac) eigenvalues, or diagonal"
    )
    epsilon: float = hp(0.02, "KL a label on the retain rows that all steps together may cause, in nats (for step kl)", gt=0)
    damping: float = hp(1e-8, "number added to every curvature", ge=0)
    share: float = hp(0.1, "further damping of each layer, as a share of the layer's mean curvature", ge=0)
    samples: int = hp(1000, "maximal number of retain rows that the curvature is estimated on", ge=1)
    draws: int = hp(1, "labels drawn for each label of a retain row; 0: every class, which is exact for classifiers", ge=0)
    check: int = hp(32, "maximal number of retain rows that a step's KL is measured on; 0: no measurement (for step kl)", ge=0)
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
            direction = self._direction(step, gradient)
            alpha = self._length(step, direction, float(dot(gradient, direction))) if self.step == "kl" else 1.0  # fixed: the learning rate
            return value, [alpha * d for d in direction]

        return on_role(grads, self.role, uphill)

    def _direction(self, step: Step, gradient: list[Tensor]) -> list[Tensor]:
        """The gradient preconditioned layer by layer, and zero for parameters outside these layers."""
        direction = [torch.zeros_like(g) for g in gradient]
        for layer in layers(step.model, step.modality):
            factors = {n: step.state[key] for n in ("values", "outputs", "inputs") if (key := f"{layer.path}/{n}") in step.state}
            matrix = gradient[layer.weight].flatten(1)
            if factors["values"].shape[1] > matrix.shape[1]:  # the curvature has a column for the bias
                matrix = torch.cat([matrix, (matrix[:, :1] * 0 if layer.bias is None else gradient[layer.bias][:, None])], 1)
            preconditioned = precondition(matrix, factors, self.damping, self.share)
            weight = gradient[layer.weight]
            direction[layer.weight] = preconditioned[:, : weight[0].numel()].reshape(weight.shape)
            if layer.bias is not None:
                direction[layer.bias] = preconditioned[:, -1]
        return direction

    def _length(self, step: Step, direction: list[Tensor], slope: float) -> float:
        """The step length with the predicted KL, halved until the KL measured on retain rows is at most twice the prediction.

        Args:
            step: the current step.
            direction: the preconditioned gradient.
            slope: the inner product of gradient and direction.

        Raises:
            UserError: when no step, however short, keeps the KL.
        """
        alpha = (2 * self.epsilon / (step.total * max(slope, 1e-30))) ** 0.5
        budget = self.epsilon * (step.done + 1) / step.total
        for _ in range(HALVINGS if self.check else 0):
            if self._divergence(step, direction, alpha) <= 2 * budget:
                return alpha
            alpha /= 2
        if self.check:
            raise UserError(
                f"step {step.done + 1} of kfade cannot keep its KL on the retain rows: however short it is, the KL is more than "
                f"{2 * budget:.3g} nats a label. Give a larger --epsilon, more --samples to estimate the curvature on, or --check 0 to do "
                "without the measurement"
            )
        return alpha

    def _divergence(self, step: Step, direction: list[Tensor], alpha: float) -> float:
        """KL(reference model || model after the step) on some retain rows, the same in every step, in nats a label."""
        retain = step.whole_set("retain")  # a batch holds no more rows than the forget set, other ones in every step
        rows = retain.select(range(0, len(retain), -(-len(retain) // self.check)))
        trainable = {n: p.detach() for n, p in step.model.named_parameters() if p.requires_grad}
        after = step.under({n: p - alpha * d for (n, p), d in zip(trainable.items(), direction, strict=True)}, rows).log_probs.values
        reference = step.reference(rows).log_probs.values
        return float((reference.exp() * (reference - after)).sum(-1).mean())


@part
class Again(Edit):
    """Add the weight change of an earlier run to a model that was trained further since."""

    before: str = hp("", "folder of the model before the earlier run")
    after: str = hp("", "folder of the model after the earlier run")
    scale: float = hp(1.0, "factor of the added change")

    def apply(self, view: View) -> None:
        current = {n: t for n, t in tensors_of(view.model).items() if t.is_floating_point()}
        before, after = stored(self.before), stored(self.after)
        mismatched = sorted(
            n for n, t in current.items() if not (n in before and n in after and before[n].shape == after[n].shape == t.shape)
        )
        if mismatched:
            raise UserError(
                f"the models in --before and --after are not of this one's kind: {mismatched[0]!r} is missing or has another shape in one "
                "of them. Give the folders of two models of the same architecture"
            )
        put(view.model, {n: t + self.scale * (after[n] - before[n]).to(t) for n, t in current.items()})


def stored(folder: str) -> Weights:
    """Read the weights in the folder of a model or of a run.

    Raises:
        UserError: when the folder holds no weights.
    """
    from safetensors.torch import load_file

    files = sorted((Path(folder) / "model").glob("*.safetensors")) or sorted(Path(folder).glob("*.safetensors")) if folder else []
    if not files:
        raise UserError(
            f"there are no weights in {folder!r}: give --before and --after, the folders of the model before and after the earlier run"
        )
    return {n: t for file in files for n, t in load_file(file).items()}


def plan(
    step: Annotated[
        Literal["kl", "fixed", "again"],
        "length of a step: by KL on the retain rows, or the learning rate; again: repeat the change of an earlier run",
    ] = "kl",
) -> Plan:
    if step == "again":
        return Plan(Again())
    steps, lr = (4, 1.0) if step == "kl" else (1, 5e-3)
    train = Train(epochs=0, steps=steps, lr=lr, batch_size=10**6, micro_batch_size=32, optimizer="sgd", schedule="constant")
    return Plan(Ascent(), train=train, updates=(GaussNewton(step=step, share=0.1 if step == "kl" else 0.0),))
