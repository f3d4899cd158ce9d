"""K-FAC by kronfluence: the Fisher information of a layer as a Kronecker product of two small matrices; EK-FAC corrects its eigenvalues."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.engine.run_state import evaluating

Strategy = Literal["ekfac", "kfac", "diagonal"]


@dataclass(frozen=True)
class KfacLayer:
    """A layer by its path, with the places of its weight and bias among the trainable parameters; None: no trainable bias."""

    path: str
    weight: int
    bias: int | None


def layers(model: nn.Module, modality: Modality) -> list[KfacLayer]:
    """List the linear and convolutional layers with a trainable weight that no other module shares.

    The head of the model is left out, unless it is the only such layer.

    Raises:
        UserError: when there is no such layer.
    """
    place = {id(p): i for i, p in enumerate(p for p in model.parameters() if p.requires_grad)}
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    modules = {n: m for n, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d) and owners[id(m.weight)] == 1}
    trainable = [KfacLayer(n, place[id(m.weight)], place.get(id(m.bias))) for n, m in modules.items() if id(m.weight) in place]
    if not trainable:
        raise UserError(
            "this model has no linear or convolutional layer with a trainable weight of its own, which Kronecker factors need: make such a "
            "layer trainable"
        )
    head = base_of(model).get_submodule(modality.head(model))
    return [layer for layer in trainable if modules[layer.path] is not head] or trainable


def batches_by_length(modality: Modality, rows: Rows, size: int) -> Iterator[list[int]]:
    """Yield places of rows with the same numbers of tokens, at most `size` at a time, so that no batch has padding in its statistics."""
    counts = [modality.counts(rows.select([i])) for i in range(len(rows))]
    lengths = [tuple(n for name, n in sorted(c.items()) if name.endswith("tokens")) for c in counts]  # a model may have several sides
    for length in sorted(set(lengths)):
        places = [i for i, n in enumerate(lengths) if n == length]
        yield from (places[i : i + size] for i in range(0, len(places), size))


@contextmanager
def tracked(model: nn.Module, task: Any, paths: Iterable[str]) -> Iterator[None]:
    """Let kronfluence track layers inside the block. It freezes all weights and wraps the layers; the end of the block undoes both."""
    from kronfluence.analyzer import prepare_model

    flags = [(p, p.requires_grad) for p in model.parameters()]
    layers = {path: model.get_submodule(path) for path in paths}
    try:
        with evaluating(model), torch.enable_grad():
            prepare_model(model, task)
            yield
    finally:
        for path, layer in layers.items():
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer)
        for p, flag in flags:
            p.requires_grad_(flag)
        model.zero_grad(set_to_none=True)


def fit(
    model: nn.Module,
    modality: Modality,
    ask: Callable[[Rows], ModelOutput],
    rows: Rows,
    losses: Callable[[ModelOutput], Iterable[Tensor]],
    paths: Sequence[str],
    strategy: Strategy = "ekfac",
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Estimate the curvature of layers over rows, averaged over labels.

    Args:
        ask: runs the model on rows.
        losses: maps an output to losses of shape (rows,), as `fisher.likelihoods` does; each loss counts on its own.
        paths: paths of the layers.

    Returns:
        Tensors by layer path: `path/values` (out, in) in the basis of `path/outputs` (out, out) and `path/inputs` (in, in), whose columns
        are eigenvectors. The strategy `diagonal` gives values alone. A bias is the last input.

    Raises:
        UserError: when kronfluence is not installed.
    """
    try:
        from kronfluence.arguments import FactorArguments
        from kronfluence.factor.covariance import fit_covariance_matrices_with_loader
        from kronfluence.factor.eigen import fit_lambda_matrices_with_loader, perform_eigendecomposition
        from kronfluence.task import Task
        from kronfluence.utils.state import State
    except ImportError:
        raise UserError("Kronecker factors need kronfluence: pip install 'expunge[kronecker]'") from None
    with torch.no_grad(), evaluating(model):
        passes = sum(1 for _ in losses(ask(rows.select([0]))))

    class OneLoss(Task):  # type: ignore[misc]  # a batch holds the index of one loss, then the places of its rows
        def compute_train_loss(self, batch: Tensor, model: nn.Module, sample: bool = False) -> Tensor:
            index, *places = batch.tolist()
            (loss,) = islice(losses(ask(rows.select(places))), index, index + 1)
            return -math.sqrt(passes) * loss.sum()  # kronfluence also averages over passes, and the sum over losses is wanted

        def compute_measurement(self, batch: Tensor, model: nn.Module) -> Tensor:
            raise NotImplementedError

        def get_influence_tracked_modules(self) -> list[str]:
            return list(paths)

    task, state = OneLoss(), State()
    dtype: Any = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    statistics = ("activation_covariance", "gradient_covariance", "per_sample_gradient", "lambda")
    args = FactorArguments(strategy=strategy, **{f"{name}_dtype": dtype for name in statistics})
    loader = [torch.tensor([k, *places]) for places in batches_by_length(modality, rows, batch_size) for k in range(passes)]
    factors: dict[str, Mapping[str, Tensor]] = {}
    with tracked(model, task, paths), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # kronfluence creates its gradient scaler by a deprecated call
        if strategy != "diagonal":
            factors |= fit_covariance_matrices_with_loader(model, state, task, loader, args, disable_tqdm=True)[1]
            factors |= perform_eigendecomposition(factors, model, state, args, disable_tqdm=True)
        if strategy != "kfac":
            basis = {n: f for n, f in factors.items() if "eigen" in n} or None
            factors |= fit_lambda_matrices_with_loader(model, state, task, loader, args, basis, disable_tqdm=True)[1]
    labels = modality.counts(rows)["labels"]
    curvature: dict[str, Tensor] = {}
    for path in paths:
        layer_factors = {n: f[path] for n, f in factors.items()}
        if strategy == "kfac":  # these eigenvalues are means over positions, and a row has several
            gradient_values, activation_values = (layer_factors[f"{n}_eigenvalues"].clamp_min(0) for n in ("gradient", "activation"))
            values = gradient_values[:, None] * activation_values
            curvature[f"{path}/values"] = values * (int(layer_factors["num_activation_covariance_processed"]) / (passes * labels))
        else:
            curvature[f"{path}/values"] = layer_factors["lambda_matrix"] * (
                len(rows) / (int(layer_factors["num_lambda_processed"]) * labels)
            )
        if strategy != "diagonal":
            curvature[f"{path}/outputs"] = layer_factors["gradient_eigenvectors"]
            curvature[f"{path}/inputs"] = layer_factors["activation_eigenvectors"]
    return curvature
